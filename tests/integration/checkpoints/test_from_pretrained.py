"""Averages of what Transformers saves, loaded again by Transformers."""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from averaging_service import Clock, settle
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedModel,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

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

    settle(service, Clock())

    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "averaged")
    assert_mean(loaded, models)
    assert loaded.lm_head.weight is loaded.transformer.wte.weight
    assert (tmp_path / "averaged" / "generation_config.json").exists()
    assert not (tmp_path / "averaged" / "optimizer.pt").exists()


class _Tokens(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """Rows of random tokens."""

    def __len__(self) -> int:
        return 64

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        tokens = torch.randint(0, 101, (8,), generator=torch.Generator().manual_seed(index))
        return {"input_ids": tokens, "labels": tokens}


class _Poll(TrainerCallback):
    """Let the service look at every step, also while the Trainer rotates."""

    def __init__(self, service: CheckpointService) -> None:
        self._service = service
        self._now = 0.0
        self.events = list(service.poll(self._now))

    def poll(self, seconds: float) -> None:
        self._now += seconds
        self.events += self._service.poll(self._now)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        del args, state, control
        self.poll(10.0)


def test_a_trainer_that_rotates_its_checkpoints_is_followed(
    tmp_path: Path, service: CheckpointService
) -> None:
    pytest.importorskip("accelerate")
    poll = _Poll(service)
    service.watch(tmp_path, run="r")
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=20,
        per_device_train_batch_size=4,
        learning_rate=1e-2,
        save_steps=4,
        save_total_limit=3,
        report_to="none",
        use_cpu=True,
        dataloader_pin_memory=False,
        disable_tqdm=True,
    )
    torch.manual_seed(0)

    Trainer(GPT2LMHeadModel(CONFIG), arguments, train_dataset=_Tokens(), callbacks=[poll]).train()
    service.flush(tmp_path)
    deadline = time.monotonic() + DEADLINE_S
    while service.is_busy() or not poll.events:
        assert time.monotonic() < deadline, service.status()
        poll.poll(0.001)
        os.sched_yield()

    assert all(event.error is None for event in poll.events)
    last = poll.events[-1]
    assert (last.step, last.output) == (20, tmp_path / "averaged")
    assert last.sources == ("checkpoint-12", "checkpoint-16", "checkpoint-20")
    models = [GPT2LMHeadModel.from_pretrained(tmp_path / name) for name in last.sources]
    assert_mean(AutoModelForCausalLM.from_pretrained(last.output), models)
    left_behind = {path.name for path in tmp_path.iterdir()}
    assert left_behind == {"averaged", *last.sources}
