"""Averages of what Transformers saves, loaded again by Transformers."""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, PreTrainedModel

from tracksided.checkpoints.service import CheckpointService

pytestmark = pytest.mark.integration

DEADLINE_S = 60.0
CONFIG = GPT2Config(n_layer=2, n_embd=32, n_head=2, vocab_size=101, bos_token_id=0, eos_token_id=1)


@pytest.fixture
def service() -> Iterator[CheckpointService]:
    started = CheckpointService(min_checkpoints=2)
    yield started
    started.close()


def save(out: Path, step: int, max_shard_size: str) -> GPT2LMHeadModel:
    """A directory as the Trainer writes it, the state last."""
    torch.manual_seed(step)
    model = GPT2LMHeadModel(CONFIG)
    directory = out / f"checkpoint-{step}"
    model.save_pretrained(directory, max_shard_size=max_shard_size)
    torch.save({"state": step}, directory / "optimizer.pt")
    (directory / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    return model


def settle(service: CheckpointService) -> None:
    deadline = time.monotonic() + DEADLINE_S
    for now in (10.0, 20.0, 30.0):
        service.poll(now)
    while service.is_busy():
        assert time.monotonic() < deadline, service.status()
        service.poll(30.0)
        os.sched_yield()


def assert_mean(found: PreTrainedModel, models: list[GPT2LMHeadModel]) -> None:
    for name, tensor in found.state_dict().items():
        wide = [model.state_dict()[name].double().numpy() for model in models]
        assert torch.equal(tensor, torch.from_numpy(np.mean(wide, axis=0)).float()), name


@pytest.mark.parametrize("max_shard_size", ["1GB", "60KB"])
def test_the_service_averages_directories_that_from_pretrained_loads(
    tmp_path: Path, service: CheckpointService, max_shard_size: str
) -> None:
    models = [save(tmp_path, step, max_shard_size) for step in (100, 200)]
    service.watch(tmp_path, run="r")

    settle(service)

    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "averaged")
    assert_mean(loaded, models)
    assert loaded.lm_head.weight is loaded.transformer.wte.weight
    assert (tmp_path / "averaged" / "generation_config.json").exists()
    assert not (tmp_path / "averaged" / "optimizer.pt").exists()
