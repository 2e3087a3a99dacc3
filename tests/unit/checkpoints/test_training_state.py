"""State of one step is neither averaged nor carried along, wherever it lies in a torch file."""

import random
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tracksided.checkpoints.formats import pickle_walk
from tracksided.checkpoints.job import AverageRequest, TooFewCheckpoints, run_average
from tracksided.checkpoints.provenance import Provenance

Make = Callable[[int], Any]
MEAN = torch.tensor([2.0, 20.0])  # of weights(1), weights(2), weights(3)


def weights(step: int) -> dict[str, torch.Tensor]:
    return {"w": torch.tensor([step, 10.0 * step])}


def optimizer(step: int) -> dict[str, Any]:
    """The state of an Adam that has made a step, whose moments differ from step to step."""
    parameter = nn.Parameter(torch.ones(2))
    adam = torch.optim.Adam([parameter])
    parameter.grad = torch.full((2,), float(step))
    adam.step()
    return adam.state_dict()


def scheduler(step: int) -> dict[str, Any]:
    adam = torch.optim.Adam([nn.Parameter(torch.ones(2))])
    schedule = torch.optim.lr_scheduler.StepLR(adam, 10)
    for _ in range(step):
        adam.step()
        schedule.step()
    return schedule.state_dict()


def plateau(step: int) -> dict[str, Any]:
    adam = torch.optim.Adam([nn.Parameter(torch.ones(2))])
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(adam)
    schedule.step(float(step))
    return schedule.state_dict()


def scaler(step: int) -> dict[str, Any]:
    return torch.amp.GradScaler("cpu", init_scale=2.0**step).state_dict()


def averaged(directory: Path, make: Make) -> tuple[Any, tuple[str, ...]]:
    """Average steps 1 to 3; return what `weights_only` loads, and what was dropped."""
    for step in (1, 2, 3):
        torch.save(make(step), directory / f"step_{step}.pt")
    provenance = run_average(AverageRequest(directory=directory))
    assert isinstance(provenance, Provenance)
    assert [source.step for source in provenance.sources] == [1, 2, 3]
    return torch.load(directory / "averaged_model.pt", weights_only=True), provenance.dropped


def refusal(directory: Path, make: Make) -> str:
    """Return why step 3 is refused."""
    with pytest.raises(TooFewCheckpoints) as caught:
        averaged(directory, make)
    return {entry.name: entry.reason for entry in caught.value.skipped}["step_3.pt"]


@pytest.mark.parametrize(
    ("make", "expected", "dropped"),
    [
        (
            lambda s: {"checkpoint": {"model": weights(s), "optimizer": optimizer(s)}, "epoch": s},
            {"checkpoint": {"model": {"w": MEAN}}, "epoch": 3},
            ("checkpoint.optimizer",),
        ),
        (
            lambda s: {"model": {"net": weights(s), "optimizer": optimizer(s)}},
            {"model": {"net": {"w": MEAN}}},
            ("model.optimizer",),
        ),
        (
            lambda s: {"last": {"model": weights(s), "loss": torch.tensor(0.5 * s), "epoch": s}},
            {"last": {"model": {"w": MEAN}, "loss": torch.tensor(1.5), "epoch": 3}},
            (),
        ),
        (
            lambda s: {"model": weights(s), "trainer": {"optimizer": optimizer(s), "lr": 0.1}},
            {"model": {"w": MEAN}, "trainer": {"lr": 0.1}},
            ("trainer.optimizer",),
        ),
        (
            lambda s: {"model": weights(s), "opts": [optimizer(s), optimizer(s)]},
            {"model": {"w": MEAN}},
            ("opts",),
        ),
        (
            lambda s: {"model": weights(s), "both": [{"a": optimizer(s), "b": 1}, 2]},
            {"model": {"w": MEAN}, "both": [{"b": 1}, 2]},
            ("both.0.a",),
        ),
        (
            lambda s: {"model": weights(s), "deep": ((optimizer(s),), {"x": s})},
            {"model": {"w": MEAN}},
            ("deep",),
        ),
        (
            lambda s: {"a": {"b": {"state_dict": weights(s), "step": s, "sched": [s]}}},
            {"a": {"b": {"state_dict": {"w": MEAN}, "step": 3}}},
            ("a.b.sched",),
        ),
        (
            lambda s: {"net": {"g": weights(s), "d": weights(s), "my_opt": optimizer(s)}},
            {"net": {"g": {"w": MEAN}, "d": {"w": MEAN}}},
            ("net.my_opt",),
        ),
        (
            lambda s: {
                "model": weights(s),
                "run": {"a": scheduler(s), "b": plateau(s), "c": scaler(s)},
            },
            {"model": {"w": MEAN}, "run": {}},
            ("run.a", "run.b", "run.c"),
        ),
        (
            lambda s: {
                "model": weights(s),
                "run": {
                    "python": random.Random(s).getstate(),
                    "numpy": np.random.RandomState(s).get_state(),
                    "generator": {"bit_generator": "PCG64", "state": {"state": s, "inc": 1}},
                    "torch_rng_state": torch.zeros(16, dtype=torch.uint8),
                    "kept": torch.tensor(0.5),
                },
            },
            {"model": {"w": MEAN}, "run": {"kept": torch.tensor(0.5)}},
            ("run.python", "run.numpy", "run.generator", "run.torch_rng_state"),
        ),
        (
            lambda s: {"model": {"net": weights(s), "rng_state": torch.zeros(16).byte()}},
            {"model": {"net": {"w": MEAN}}},
            ("model.rng_state",),
        ),
    ],
)
def test_it_is_taken_out_at_any_depth(
    tmp_path: Path, make: Make, expected: Any, dropped: tuple[str, ...]
) -> None:
    found, left_out = averaged(tmp_path, make)

    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert left_out == dropped


@pytest.mark.parametrize(
    "make",
    [
        # A learned optimizer, and modules with such names: a state dict is flat.
        lambda s: {
            "optimizer.weight": torch.full((2,), float(s)),
            "state.rng.weight": torch.full((2,), 1.0 * s),
            "scheduler": torch.full((2,), 1.0 * s),
            "rng_state": torch.full((2,), 1.0 * s),
        },
        lambda s: {"model": {"state": weights(s), "opt.lr": torch.full((2,), 1.0 * s)}},
        lambda s: {"state": torch.full((2,), 1.0 * s), "param_groups": torch.full((2,), 1.0 * s)},
        lambda s: {"model": {"unet": weights(s), "noise_scheduler": weights(s)}},
        # A part of the model may be called like a wrapper.
        lambda s: {"params": {"model": weights(s), "lm_head": weights(s)}},
        lambda s: {"model": {"model": weights(s), "lm_head": weights(s), "ema": weights(s)}},
    ],
)
def test_parts_of_a_model_may_have_such_names(tmp_path: Path, make: Make) -> None:
    found, dropped = averaged(tmp_path, make)

    assert dropped == ()
    pending = [(found, make(1), make(3))]
    while pending:
        mean, first, last = pending.pop()
        if isinstance(mean, torch.Tensor):
            assert torch.equal(mean, (first + last) / 2)  # linear in the step
        else:
            assert mean.keys() == first.keys()
            pending += [(mean[key], first[key], last[key]) for key in mean]


def test_settings_of_an_optimizer_go_along(tmp_path: Path) -> None:
    settings = {
        "optimizer": {"name": "adamw", "lr": 0.1, "betas": (0.9, 0.99)},
        "lr_scheduler": {"last_epoch": -1, "warmup": 10},
        "scaler": {"scale": 2.0},
        "rng": {"seed": 5},
    }

    found, dropped = averaged(
        tmp_path, lambda step: {"model": weights(step), "config": settings, "amp": {"level": "O1"}}
    )

    assert found["config"] == settings
    assert found["amp"] == {"level": "O1"}
    assert dropped == ()


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (optimizer, "it holds the state of an optimizer, and no model"),
        (lambda s: {"optimizer": optimizer(s), "seed": 1}, "it holds no model, only state of one"),
        (lambda _: {"torch_rng_state": torch.zeros(5056).byte()}, "(optimizer, scheduler, random"),
        (
            lambda s: {0: {"exp_avg": weights(s), "exp_avg_sq": weights(s)}},
            "only state of one step",
        ),
        (lambda s: {"python": random.Random(s).getstate()}, "only state of one step"),
        (
            lambda s: {
                "cpu": torch.full((16,), s, dtype=torch.uint8),
                "cuda": torch.zeros(16).byte(),
            },
            "holds no weights: all its tensors are integers or bool",
        ),
        (
            lambda s: {"model": {"parts": [weights(s), optimizer(s)]}},
            "'parts' holds the state of an optimizer, scheduler or the like beside other tensors",
        ),
    ],
)
def test_a_file_of_nothing_else_is_refused_by_name(tmp_path: Path, make: Make, reason: str) -> None:
    assert reason in refusal(tmp_path, make)


def test_models_are_averaged_beside_newer_files_of_such_state(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        torch.save(weights(step), tmp_path / f"model_{step}.pt")
        torch.save(optimizer(step), tmp_path / f"optimizer_{step}.pt")
        torch.save({"cpu_rng_state": torch.get_rng_state()}, tmp_path / f"rng_{step}.pt")

    provenance = run_average(AverageRequest(directory=tmp_path))

    assert isinstance(provenance, Provenance)
    assert [source.name for source in provenance.sources] == [f"model_{s}.pt" for s in (1, 2, 3)]
    found = torch.load(tmp_path / "averaged_model.pt", weights_only=True)
    assert torch.equal(found["w"], MEAN)
    assert {entry.name for entry in provenance.skipped} == {
        f"{kind}_{step}.pt" for kind in ("optimizer", "rng") for step in (1, 2, 3)
    }


def test_schedules_of_noise_and_scalers_of_features_go_along(tmp_path: Path) -> None:
    features = {"mean": torch.tensor([1.0, 2.0]), "std": torch.ones(2)}
    noise = {"betas": torch.linspace(0, 1, 3)}

    found, dropped = averaged(
        tmp_path,
        lambda step: {
            "model": weights(step),
            "pipeline": {"scaler": features, "noise_scheduler": noise, "lr_sched": scheduler(step)},
        },
    )

    assert dropped == ("pipeline.lr_sched",)
    torch.testing.assert_close(
        found["pipeline"], {"scaler": features, "noise_scheduler": noise}, rtol=0, atol=0
    )


def test_an_object_that_holds_it_goes_as_a_whole(tmp_path: Path) -> None:
    found, dropped = averaged(
        tmp_path,
        lambda step: {
            "model": weights(step),
            "trainer": Namespace(inner={"x": optimizer(step)}),
        },
    )

    assert found.keys() == {"model"}
    assert dropped == ("trainer",)


def test_a_list_of_what_was_left_out_is_bounded(tmp_path: Path) -> None:
    _, dropped = averaged(
        tmp_path,
        lambda step: {
            "model": weights(step),
            "many": [{"rng": torch.zeros(1).byte()} for _ in range(300)],
        },
    )

    assert dropped[:2] == ("many.0.rng", "many.1.rng")
    assert dropped[100:] == ("and 200 more",)


def test_entries_that_share_their_parts_in_too_many_ways_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pickle_walk, "MAX_VISITS", 10_000)
    shared = [[[]] for _ in range(500)]

    reason = refusal(
        tmp_path,
        lambda step: {
            "model": weights(step),
            "trainer": {
                f"{index}_opt": [torch.ones(1), {"a": shared}] for index in range(step * 20)
            },
        },
    )

    assert reason == "its entries share their parts in too many ways"
