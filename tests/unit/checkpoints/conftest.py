"""Checkpoints to average."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

StateDict = dict[str, torch.Tensor]


@pytest.fixture
def save_steps(tmp_path: Path) -> Callable[..., list[StateDict]]:
    """Save one state dict per step, written in the order given; returns the state dicts."""

    def save(
        *steps: int,
        name: str = "step_{step}.pt",
        make: Callable[[int], Mapping[str, Any]] = small_model,
        wrap: Callable[[int, Mapping[str, Any]], Any] = lambda _, state: state,
    ) -> list[StateDict]:
        states = []
        for step in steps:
            state = dict(make(step))
            torch.save(wrap(step, state), tmp_path / name.format(step=step))
            states.append(state)
        return states

    return save


def small_model(seed: int) -> StateDict:
    generator = torch.Generator().manual_seed(seed)
    return {
        "weight": torch.randn(5, 7, generator=generator),
        "bias": torch.randn(7, generator=generator),
        "counter": torch.tensor(seed),
    }
