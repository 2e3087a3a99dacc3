"""Copies of the weights that a training keeps beside the model: never one step's beside a mean."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tracksided.checkpoints.job import AverageRequest, run_average
from tracksided.checkpoints.provenance import Provenance

SMALL = 2
LARGE = 300_000  # elements of float32: more than the 1 MiB that other entries may have
Make = Callable[[int, int], Any]


def weights(step: int, count: int, scale: float = 1.0) -> dict[str, torch.Tensor]:
    return {"a.weight": torch.full((count,), scale * step), "a.bias": torch.full((3,), 1.0 * step)}


def average(directory: Path, make: Callable[[int], Any]) -> tuple[Any, tuple[str, ...]]:
    """Average steps 1 to 3; return what `weights_only` loads, and what was dropped."""
    for step in (1, 2, 3):
        torch.save(make(step), directory / f"step_{step}.pt")
    provenance = run_average(AverageRequest(directory=directory))
    assert isinstance(provenance, Provenance)
    return torch.load(directory / "averaged_model.pt", weights_only=True), provenance.dropped


def timm(step: int, count: int) -> dict[str, Any]:
    return {
        "epoch": step,
        "arch": "resnet",
        "state_dict": weights(step, count),
        "state_dict_ema": weights(step, count, 7),
        "metric": 70.5,
    }


def lightning_weight_averaging(step: int, count: int) -> dict[str, Any]:
    """`state_dict` is the average there, `current_model_state` what is trained."""
    return {
        "state_dict": weights(step, count),
        "current_model_state": weights(step, count, 7),
        "averaging_state": {"n_averaged": torch.tensor(step)},
    }


def lightning_callback(step: int, count: int) -> dict[str, Any]:
    return {
        "state_dict": weights(step, count),
        "callbacks": {
            "StochasticWeightAveraging": {
                "n_averaged": step,
                "average_model_state": weights(step, count, 7),
            },
            "EMA": {"decay": 0.9, "weights": list(weights(step, count, 7).values())},
            "ModelCheckpoint": {"current_score": torch.tensor(0.5), "ema_score": torch.ones(1)},
        },
    }


def fairseq(step: int, count: int) -> dict[str, Any]:
    return {
        "model": weights(step, count),
        "extra_state": {"val_loss": 0.5, "ema": weights(step, count, 7)},
    }


def composer(step: int, count: int) -> dict[str, Any]:
    ema = {"repr": "EMA()", "ema_model": {"named_parameters_dict": weights(step, count, 7)}}
    return {"state": {"model": weights(step, count), "algorithms": [("EMA", ema)], "step": step}}


def real_esrgan(step: int, count: int) -> dict[str, Any]:
    return {"params": weights(step, count), "params_ema": weights(step, count, 7)}


def wrapped_copy(step: int, count: int) -> dict[str, Any]:
    copy = {f"module.{name}": value for name, value in weights(step, count, 7).items()}
    return {"model": weights(step, count), "best": copy}


@pytest.mark.parametrize("count", [SMALL, LARGE])
@pytest.mark.parametrize(
    ("make", "path", "dropped"),
    [
        (timm, ("state_dict",), ("state_dict_ema",)),
        (lightning_weight_averaging, ("state_dict",), ("current_model_state",)),
        (
            lightning_callback,
            ("state_dict",),
            ("callbacks.StochasticWeightAveraging", "callbacks.EMA"),
        ),
        (fairseq, ("model",), ("extra_state.ema",)),
        (composer, ("state", "model"), ("state.algorithms.0.1.ema_model",)),
        (real_esrgan, ("params",), ("params_ema",)),
        (wrapped_copy, ("model",), ("best",)),
    ],
)
def test_they_are_left_out_and_named_whatever_their_size(
    tmp_path: Path, make: Make, path: tuple[str, ...], dropped: tuple[str, ...], count: int
) -> None:
    averaged, left_out = average(tmp_path, lambda step: make(step, count))

    assert left_out == dropped
    found = averaged
    for key in path:
        found = found[key]
    assert found.keys() == {"a.weight", "a.bias"}
    assert torch.equal(found["a.weight"], torch.full((count,), 2.0))
    assert torch.equal(found["a.bias"], torch.full((3,), 2.0))


def test_what_lies_around_them_stays(tmp_path: Path) -> None:
    lightning, esrgan = tmp_path / "lightning", tmp_path / "esrgan"
    lightning.mkdir()
    esrgan.mkdir()

    averaged, _ = average(lightning, lambda step: lightning_callback(step, SMALL))
    composed, _ = average(esrgan, lambda step: composer(step, SMALL))

    assert averaged["callbacks"] == {
        "ModelCheckpoint": {"current_score": torch.tensor(0.5), "ema_score": torch.ones(1)}
    }
    assert composed["state"]["algorithms"] == [("EMA", {"repr": "EMA()"})]


def test_an_average_that_is_all_there_is_is_the_model(tmp_path: Path) -> None:
    averaged, dropped = average(tmp_path, lambda step: {"ema": weights(step, SMALL), "epoch": 1})

    assert torch.equal(averaged["ema"]["a.weight"], torch.full((SMALL,), 2.0))
    assert dropped == ()


def test_another_name_for_the_same_tensors_stays_the_same(tmp_path: Path) -> None:
    def make(step: int) -> Any:
        state = weights(step, SMALL)
        return {"model": state, "ema": dict(state)}

    averaged, dropped = average(tmp_path, make)

    assert dropped == ()
    assert torch.equal(averaged["ema"]["a.weight"], torch.full((SMALL,), 2.0))
    assert averaged["ema"]["a.weight"].data_ptr() == averaged["model"]["a.weight"].data_ptr()


def test_tables_of_other_names_or_shapes_go_along(tmp_path: Path) -> None:
    tables = {"a.weight": torch.ones(SMALL + 1), "a.bias": torch.ones(3)}

    averaged, dropped = average(
        tmp_path,
        lambda step: {
            "model": weights(step, SMALL),
            "tables": tables,
            "others": {"mean": torch.ones(3)},
            "ema_decay": torch.tensor([0.9]),
        },
    )

    assert dropped == ()
    assert torch.equal(averaged["tables"]["a.weight"], torch.ones(SMALL + 1))
    assert torch.equal(averaged["others"]["mean"], torch.ones(3))
    assert averaged["ema_decay"] == torch.tensor([0.9])
