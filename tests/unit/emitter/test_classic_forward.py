"""The forward that the classic monitors run by themselves leaves nothing behind."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import trackside
from trackside.undisturbed import needs_other_ranks, undisturbed


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


def test_a_sharded_model_is_not_run_by_one_rank_alone(
    tmp_path: Path,
    shm_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("TRACKSIDE_AUTOSTART", "0")
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
