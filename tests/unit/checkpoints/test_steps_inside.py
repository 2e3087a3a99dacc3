"""The step that a torch checkpoint states inside, as the trainings that write it do."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from tracksided.checkpoints.job import AverageRequest, run_average
from tracksided.checkpoints.policy import StepRange
from tracksided.checkpoints.provenance import Provenance


def weights(step: int) -> dict[str, torch.Tensor]:
    return {"w": torch.full((2,), float(step))}


def nano_gpt(step: int) -> dict[str, Any]:
    return {"model": weights(step), "iter_num": step, "best_val_loss": torch.tensor(0.5)}


def fairseq(step: int) -> dict[str, Any]:
    earlier = {"optimizer_name": "FairseqAdam", "num_updates": 7, "lr_scheduler_state": {}}
    return {
        "model": weights(step),
        "optimizer_history": [earlier, {**earlier, "num_updates": step}],
        "extra_state": {"epoch": 1, "train_iterator": {"epoch": 1, "iterations_in_epoch": 5}},
    }


def composer(step: int) -> dict[str, Any]:
    timestamp = {"epoch": 2, "batch": step, "sample": 8 * step, "batch_in_epoch": 3}
    return {"state": {"model": weights(step), "timestamp": {"Timestamp": timestamp}}, "rng": []}


def nested(step: int) -> dict[str, Any]:
    return {"checkpoint": {"model": weights(step), "global_step": step}, "epoch": 1}


@pytest.mark.parametrize("make", [nano_gpt, fairseq, composer, nested])
@pytest.mark.parametrize("names", ["abcd", ("ep3-rank0", "ep9-rank0", "ep1-rank0", "ep2-rank0")])
def test_it_orders_files_whose_names_state_none(
    tmp_path: Path, make: Any, names: Sequence[str]
) -> None:
    for name, step in zip(names, (3000, 1000, 2000, 4000), strict=True):
        torch.save(make(step), tmp_path / f"{name}.pt")

    provenance = run_average(
        AverageRequest(directory=tmp_path, steps=StepRange(first=2000), count=2)
    )

    assert isinstance(provenance, Provenance)
    assert [(source.name, source.step) for source in provenance.sources] == [
        (f"{names[0]}.pt", 3000),
        (f"{names[3]}.pt", 4000),
    ]


@pytest.mark.parametrize("step", [True, -1, 2.0, "5", None])
def test_what_is_no_count_is_no_step(tmp_path: Path, step: Any) -> None:
    for name, value in (("a", 1), ("b", 3)):
        torch.save({"model": weights(value), "iter_num": step}, tmp_path / f"{name}.pt")

    provenance = run_average(AverageRequest(directory=tmp_path))

    assert isinstance(provenance, Provenance)
    assert [source.step for source in provenance.sources] == [None, None]
