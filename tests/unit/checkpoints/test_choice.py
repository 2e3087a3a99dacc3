"""One series is averaged, each step of it once; what is left out is named with the reason."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tracksided.checkpoints.job import (
    AverageRequest,
    Plan,
    TooFewCheckpoints,
    plan_average,
)

Save = Callable[..., list[dict[str, torch.Tensor]]]


def model(seed: int) -> dict[str, torch.Tensor]:
    return {"weight": torch.full((3,), float(seed))}


def plan(directory: Path, *, pattern: str = "*.pt", count: int = 5, mix: bool = False) -> Plan:
    return plan_average(
        AverageRequest(directory=directory, patterns=(pattern,), count=count, mix_series=mix)
    )


def sources(made: Plan) -> dict[str, int | None]:
    return {source.name: source.step for source in made.sources}


def skipped(made: Plan) -> dict[str, str]:
    return {entry.name: entry.reason for entry in made.skipped}


def save_twice(save: Save, first: str, second: str) -> None:
    for step in (100, 200, 300):
        save(step, name=first, make=model)
        save(step, name=second, make=lambda step: model(step + 1))


def test_an_ema_copy_is_not_mixed_with_the_weights(tmp_path: Path, save_steps: Save) -> None:
    save_twice(save_steps, "model_{step}.pt", "model_ema_{step}.pt")

    made = plan(tmp_path)

    assert sources(made) == {f"model_{step}.pt": step for step in (100, 200, 300)}
    assert skipped(made) == {
        f"model_ema_{step}.pt": "belongs to another series: model_ema_N" for step in (100, 200, 300)
    }
    assert all(entry.is_copy for entry in made.skipped)  # nothing is wrong with them


def test_a_pattern_chooses_another_series(tmp_path: Path, save_steps: Save) -> None:
    save_twice(save_steps, "model_{step}.pt", "model_ema_{step}.pt")

    made = plan(tmp_path, pattern="model_ema_*.pt")

    assert sources(made) == {f"model_ema_{step}.pt": step for step in (100, 200, 300)}


def test_series_are_mixed_where_that_is_asked_for(tmp_path: Path, save_steps: Save) -> None:
    save_twice(save_steps, "runA_{step}.pt", "runB_{step}.pt")

    made = plan(tmp_path, mix=True, count=4)

    assert sources(made) == {
        "runA_200.pt": 200,
        "runB_200.pt": 200,
        "runA_300.pt": 300,
        "runB_300.pt": 300,
    }
    assert not made.skipped


def test_a_series_with_too_few_gives_way_to_the_next(tmp_path: Path, save_steps: Save) -> None:
    save_steps(1, 2, 3, name="old_{step}.pt")
    save_steps(1, name="new_{step}.pt")
    torch.save([1], tmp_path / "new_2.pt")

    made = plan(tmp_path)

    assert list(sources(made)) == ["old_1.pt", "old_2.pt", "old_3.pt"]
    assert skipped(made)["new_1.pt"] == "belongs to another series: new_N"
    assert skipped(made)["new_2.pt"].startswith("it does not hold a dict")


def test_two_states_of_one_step_are_not_averaged(tmp_path: Path, save_steps: Save) -> None:
    save_steps(1, 2, name="epoch=0-step={step}.ckpt", make=model)
    save_steps(2, name="epoch=0-step={step}-v1.ckpt", make=lambda _: model(9))

    made = plan(tmp_path, pattern="*.ckpt")

    assert list(sources(made)) == ["epoch=0-step=1.ckpt", "epoch=0-step=2-v1.ckpt"]
    assert skipped(made) == {
        "epoch=0-step=2.ckpt": "is of step 2, like epoch=0-step=2-v1.ckpt, and not the same"
    }


def test_a_soup_of_one_step_is_averaged(tmp_path: Path) -> None:
    for seed, name in enumerate(("seed_a.pt", "seed_b.pt", "seed_c.pt")):
        torch.save({"model": model(seed), "step": 1000}, tmp_path / name)

    assert sources(plan(tmp_path)) == dict.fromkeys(("seed_a.pt", "seed_b.pt", "seed_c.pt"), 1000)


@pytest.mark.parametrize("copy", [shutil.copyfile, os.link, os.symlink])
@pytest.mark.parametrize("step", [None, 2])
def test_a_copy_counts_under_the_name_that_has_the_number(
    tmp_path: Path, save_steps: Save, copy: Callable[[Path, Path], object], step: int | None
) -> None:
    def wrap(number: int, state: object) -> dict[str, object]:
        return {"model": state} if step is None else {"model": state, "step": number}

    save_steps(1, 2, name="epoch_{step}.pt", wrap=wrap)
    copy(tmp_path / "epoch_2.pt", tmp_path / "last.pt")
    copy(tmp_path / "epoch_1.pt", tmp_path / "best.pt")

    made = plan(tmp_path)

    assert sources(made) == {"epoch_1.pt": 1, "epoch_2.pt": 2}
    assert set(skipped(made)) == {"last.pt", "best.pt"}
    assert skipped(made)["last.pt"].endswith(" epoch_2.pt")


def test_moments_in_names_are_no_steps(tmp_path: Path, save_steps: Save) -> None:
    for number, moment in enumerate(("20261124_203000", "20261125_070000", "20261126_093000")):
        save_steps(number, name=f"model_{moment}.pt")
        os.utime(tmp_path / f"model_{moment}.pt", (number, number))

    assert sources(plan(tmp_path, count=2)) == {
        "model_20261125_070000.pt": None,
        "model_20261126_093000.pt": None,
    }


def test_too_few_of_each_series_name_all(tmp_path: Path, save_steps: Save) -> None:
    save_steps(1, name="model_{step}.pt")
    save_steps(1, name="other_{step}.pt")

    with pytest.raises(TooFewCheckpoints, match=r"; --mix-series takes .*another series"):
        plan(tmp_path)
