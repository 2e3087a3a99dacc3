"""The forward that the classic monitors run by themselves: captured, and leaving nothing behind."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from classic_training import HEADS, VOCABULARY, WIDTH, Model, attention_by_hand, captured
from torch import nn

import trackside
from trackside.undisturbed import needs_other_ranks, undisturbed

pytestmark = pytest.mark.usefixtures("quiet_monitors")

Receive = Callable[[], Any]


class Drawing(nn.Module):
    """Draws from every generator there is, and raises if it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen = nn.Dropout().eval()
        self.weight = nn.Parameter(torch.ones(1))
        self.seen: list[tuple[bool, bool]] = []

    def forward(self, enc: object) -> torch.Tensor:
        self.seen.append((self.training, torch.is_grad_enabled()))
        torch.rand(3)
        random.random()
        np.random.random()  # noqa: NPY002 - models do
        if enc == "raise":
            raise RuntimeError("on fire")
        return self.weight.sum()


class FullyShardedDataParallel(nn.Module):
    """Has the name of torch's wrapper."""


def draws() -> tuple[float, float, float]:
    return torch.rand(1).item(), random.random(), np.random.random()  # noqa: NPY002 - as models do


def seed() -> None:
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002 - as models do


def test_without_training_the_model_is_run_once_on_the_inputs(
    receive: Receive, tmp_path: Path
) -> None:
    model = Model()
    enc = torch.randint(VOCABULARY, (2, 6))

    with trackside.TrainingAttentionMonitor(tmp_path, save_frequency=2) as monitor:
        for step in (2, 3, 4):
            monitor.log_attention(model, enc, None, step, 0.25)

    received = receive()
    assert [sample.step.step for sample in received.samples] == [2, 4]
    assert model.num_forwards == 2
    np.testing.assert_allclose(
        captured(received.samples[1]), attention_by_hand(model, enc, enc), atol=1e-6
    )
    assert received.steps[1].loss == 0.25
    assert received.steps[1].learning_rate is None
    assert received.samples[1].gradients is None


def test_inputs_may_be_keywords(receive: Receive, tmp_path: Path) -> None:
    model, enc = Model(), torch.randint(VOCABULARY, (2, 6))
    dec = torch.randint(VOCABULARY, (2, 3))

    with trackside.TrainingAttentionMonitor(tmp_path) as monitor:
        monitor.log_attention(model, {"enc": enc, "dec": dec}, None, 100, 0.0)

    (sample,) = receive().samples
    np.testing.assert_allclose(captured(sample), attention_by_hand(model, enc, dec), atol=1e-6)


def test_an_encoder_with_padding_is_captured_off_its_fast_path(
    receive: Receive, tmp_path: Path
) -> None:
    layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 16, batch_first=True)
    model = nn.TransformerEncoder(layer, 2)
    padding = torch.tensor([[False, False, False, True], [False, False, True, True]])
    inputs = {"src": torch.randn(2, 4, WIDTH), "src_key_padding_mask": padding}

    with trackside.LightweightAttentionMonitor(tmp_path) as monitor:
        monitor.log_attention(model, inputs, None, 50, 0.0)

    (step,) = receive().steps
    assert [attention.module for attention in step.attention] == [
        "layers.0.self_attn",
        "layers.1.self_attn",
    ]


def test_a_forward_of_our_own_leaves_nothing_behind(receive: Receive, tmp_path: Path) -> None:
    model = Model()
    model.dropout.eval()  # a part that the user has frozen
    running_mean = model.norm.running_mean.clone()
    random.seed(1)
    states = random.getstate(), torch.get_rng_state()
    enc = torch.randint(VOCABULARY, (2, 6), generator=torch.Generator().manual_seed(0))

    with trackside.TrainingAttentionMonitor(tmp_path) as monitor:
        monitor.log_attention(model, enc, None, 100, 0.0)

    assert model.num_forwards == 1
    assert [module.training for module in (model, model.norm, model.dropout)] == [True, True, False]
    assert torch.equal(model.norm.running_mean, running_mean)
    assert (random.getstate(), True) == (states[0], torch.equal(torch.get_rng_state(), states[1]))
    assert all(parameter.grad is None for parameter in model.parameters())
    assert len(receive().samples) == 1


def test_modes_and_generators_are_put_back() -> None:
    model = Drawing()
    seed()
    expected = draws()

    seed()
    with undisturbed(model):
        model("fine")

    assert draws() == expected
    assert model.seen == [(False, False)]
    assert (model.training, model.frozen.training) == (True, False)
    assert torch.is_grad_enabled()


def test_they_are_put_back_after_an_exception_too() -> None:
    model = Drawing()
    seed()
    expected = draws()

    seed()
    with pytest.raises(RuntimeError, match="on fire"), undisturbed(model):
        model("raise")

    assert draws() == expected
    assert (model.training, model.frozen.training) == (True, False)


def test_a_model_that_cannot_be_run_is_reported_and_training_goes_on(
    receive: Receive, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = Model()

    with trackside.TrainingAttentionMonitor(tmp_path) as monitor:
        monitor.log_attention(model, "no tensor", None, 100, 0.5)

    assert "a forward for log_attention failed" in caplog.text
    (step,) = receive().steps
    assert (step.loss, step.attention) == (0.5, ())
    assert model.training


def test_rank_one_sends_no_attention_and_runs_no_forward(
    receive: Receive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    model, enc = Model(), torch.randint(VOCABULARY, (2, 6))

    with trackside.TrainingAttentionMonitor(tmp_path) as monitor:
        monitor.log_attention(model, enc, None, 100, 0.5)

    (step,) = receive().steps
    assert (step.step, step.loss, step.attention) == (100, 0.5, ())
    assert model.num_forwards == 0


def test_a_sharded_model_is_not_run_by_one_rank_alone(
    tmp_path: Path,
    shm_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("TRACKSIDE_RING_BYTES", str(1 << 40))  # nothing is kept in shared memory
    model = Drawing()
    model.part = FullyShardedDataParallel()

    with trackside.TrainingAttentionMonitor(tmp_path) as monitor:
        monitor.log_attention(model, "fine", None, 100, 0.0)

    assert needs_other_ranks(model)
    assert not needs_other_ranks(Drawing())
    assert model.seen == []
    assert "cannot be run by one rank" in caplog.text
    assert not list(shm_dir.glob("*.ring"))
