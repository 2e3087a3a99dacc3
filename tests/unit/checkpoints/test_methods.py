"""Every method, from files to file, against its formula in numpy's float64."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tracksided.checkpoints.job import AverageRequest, run_average
from tracksided.checkpoints.weights import METHODS

Save = Callable[..., list[dict[str, torch.Tensor]]]
Wide = NDArray[np.float64]
STEPS = (100, 200, 400, 500)
DECAY = 0.8


def mean(values: Sequence[Wide]) -> Wide:
    """Izmailov et al. 2018: the plain mean."""
    return np.asarray(sum(values) / len(values))


def ema(values: Sequence[Wide]) -> Wide:
    """Weight of a checkpoint: the gap before it times decay ^ (age in mean gaps)."""
    gaps = np.array([100, 100, 200, 100])  # nothing is known of the time before the first
    mean_gap = (STEPS[-1] - STEPS[0]) / (len(STEPS) - 1)
    pairs = zip(gaps, STEPS, strict=True)
    raw = [gap * DECAY ** ((STEPS[-1] - step) / mean_gap) for gap, step in pairs]
    return np.asarray(np.tensordot(np.array(raw) / np.sum(raw), np.stack(values), axes=1))


def decayed(schedule: Callable[[float], float]) -> Callable[[Sequence[Wide]], Wide]:
    """Tian et al. 2025: the updates after the first checkpoint, each times the decay schedule."""

    def merge(values: Sequence[Wide]) -> Wide:
        merged = values[0].copy()
        for index in range(1, len(values)):
            merged += schedule(index / len(values)) * (values[index] - values[index - 1])
        return merged

    return merge


FORMULAS: dict[str, Callable[[Sequence[Wide]], Wide]] = {
    "uniform": mean,
    "lawa": mean,
    "ema": ema,
    "wsm-linear": decayed(lambda u: 1 - u),
    "wsm-cosine": decayed(lambda u: 0.5 + 0.5 * math.cos(math.pi * u)),
    "wsm-1-sqrt": decayed(lambda u: 1 - u**0.5),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_a_method_is_its_formula_rounded_once(
    tmp_path: Path, save_steps: Save, method: str, dtype: torch.dtype
) -> None:
    states = save_steps(
        *STEPS,
        make=lambda step: {
            "w": torch.randn(400, generator=torch.Generator().manual_seed(step)).to(dtype)
        },
    )

    run_average(AverageRequest(directory=tmp_path, method=method, decay=DECAY))

    found = torch.load(tmp_path / "averaged_model.pt", weights_only=True)["w"]
    expected = FORMULAS[method]([state["w"].double().numpy() for state in states])
    assert found.dtype == dtype
    # Half a unit in the last place of what is stored, and some of float64 for another order.
    info = torch.finfo(dtype)
    half_unit = np.maximum(np.abs(expected), info.smallest_normal) * info.eps / 2
    order = 8 * np.finfo(np.float64).eps * sum(np.abs(s["w"].double().numpy()) for s in states)
    assert np.all(np.abs(found.double().numpy() - expected) <= half_unit + order)


def test_the_mean_is_a_sum_in_float64_divided_by_the_count(
    tmp_path: Path, save_steps: Save
) -> None:
    """As timm's avg_checkpoints.py sums: in any order, then it divides, clamps, rounds to float32.

    The script itself is run by `benchmarks/averaging.py`.

    The order of a sum in float64 can move the last bit of float32 in one case of 2**29.
    """
    states = save_steps(*STEPS, make=lambda step: {"w": torch.randn(10_000) * 10.0 ** (step % 7)})
    total = sum(state["w"].to(torch.float64) for state in reversed(states))
    limit = torch.finfo(torch.float32)
    peer = torch.as_tensor(total / len(states)).clamp(limit.min, limit.max).to(torch.float32)

    run_average(AverageRequest(directory=tmp_path))

    found = torch.load(tmp_path / "averaged_model.pt", weights_only=True)["w"]
    assert torch.equal(found, peer)
