"""The best checkpoints by a metric, against a plain sort."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from best_checkpoints import reasons_of, request, score, steps_of
from click.testing import CliRunner, Result
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tracksided.checkpoints.job import TooFewCheckpoints, plan_average, run_average
from tracksided.checkpoints.policy import StepRange
from tracksided.cli.average import command

Save = Callable[..., list[dict[str, torch.Tensor]]]


def test_the_best_are_averaged_from_oldest_to_newest(tmp_path: Path, save_steps: Save) -> None:
    states = save_steps(1, 2, 3, 4, 5)
    score(tmp_path, {1: 0.3, 2: 0.1, 3: 0.5, 4: 0.2, 5: 0.4})

    provenance = run_average(request(tmp_path, count=3))

    assert provenance is not None
    assert [(source.step, source.metric) for source in provenance.sources] == [
        (1, 0.3),
        (2, 0.1),
        (4, 0.2),
    ]
    averaged = torch.load(tmp_path / "averaged_model.pt", weights_only=True)
    mean = np.mean([states[index]["weight"].double().numpy() for index in (0, 1, 3)], axis=0)
    assert torch.equal(averaged["weight"], torch.from_numpy(mean).float())
    assert averaged["counter"] == 4
    described = json.loads((tmp_path / "averaged_model.json").read_text())
    assert described["best"] == {"metric": "val_loss", "mode": "min"}
    assert [source["metric"] for source in described["sources"]] == [0.3, 0.1, 0.2]


def test_the_mode_says_which_end_is_good(tmp_path: Path, save_steps: Save) -> None:
    save_steps(1, 2, 3, 4)
    score(tmp_path, {1: 0.3, 2: 0.1, 3: 0.5, 4: 0.2})

    assert steps_of(tmp_path, "min", count=2) == [2, 4]
    assert steps_of(tmp_path, "max", count=2) == [1, 3]


def test_of_equal_ones_the_newer_are_taken(tmp_path: Path, save_steps: Save) -> None:
    save_steps(1, 2, 3, 4)
    score(tmp_path, dict.fromkeys((1, 2, 3, 4), 0.5))

    assert steps_of(tmp_path, "min", count=2) == [3, 4]
    assert steps_of(tmp_path, "max", count=2) == [3, 4]


def test_a_range_of_steps_is_kept(tmp_path: Path, save_steps: Save) -> None:
    save_steps(10, 20, 30, 40, 50)
    score(tmp_path, {10: 0.0, 20: 0.4, 30: 0.1, 40: 0.2, 50: 0.3})

    steps = StepRange(first=20, last=50, every=10)
    assert steps_of(tmp_path, count=2, steps=steps) == [30, 40]
    assert steps_of(tmp_path, count=2, steps=StepRange(every=20)) == [20, 40]


def test_the_next_best_takes_the_place_of_one_that_is_not_sound(
    tmp_path: Path, save_steps: Save
) -> None:
    save_steps(1, 2, 3, 4)
    score(tmp_path, {1: 0.1, 2: 0.2, 3: 0.3, 4: 0.4})
    state = torch.load(tmp_path / "step_1.pt", weights_only=True)
    state["weight"][0] = math.nan
    torch.save(state, tmp_path / "step_1.pt")

    provenance = run_average(request(tmp_path, count=2))

    assert provenance is not None
    assert [source.step for source in provenance.sources] == [2, 3]
    assert "NaN or infinity" in provenance.skipped[0].reason


@given(
    losses=st.dictionaries(
        st.integers(1, 9),
        st.sampled_from([None, 0.1, 0.2, 0.3, math.nan, math.inf, -math.inf, "0.1", True]),
        min_size=2,
    ),
    mode=st.sampled_from(["min", "max"]),
    count=st.integers(1, 9),
)
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_losses_choose_like_a_plain_sort(
    tmp_path_factory: pytest.TempPathFactory, losses: dict[int, Any], mode: str, count: int
) -> None:
    directory = tmp_path_factory.mktemp("losses")
    for step in losses:
        torch.save({"w": torch.full((2,), float(step))}, directory / f"step_{step}.pt")
    score(directory, losses)
    sign = 1 if mode == "min" else -1
    good = [
        (sign * loss, -step)
        for step, loss in losses.items()
        if isinstance(loss, float) and math.isfinite(loss)
    ]
    expected = sorted(-step for _, step in sorted(good)[:count])

    if len(expected) < min(2, count):
        with pytest.raises(TooFewCheckpoints):
            plan_average(request(directory, mode, count=count))
        return
    assert steps_of(directory, mode, count=count) == expected
    reasons = reasons_of(directory, mode=mode, count=count)
    assert reasons.keys() == {
        f"step_{step}.pt" for step in losses if -step not in {place for _, place in good}
    }


def run(*arguments: str | Path) -> Result:
    result = CliRunner().invoke(command, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result


def test_the_command_shows_the_metric_it_chose_by(tmp_path: Path, save_steps: Save) -> None:
    save_steps(1, 2, 3, 4)
    score(tmp_path, {1: 0.25, 2: 0.125, 3: 0.5})
    options = ("--best", "val_loss", "--mode", "min", "--num-checkpoints", "2", "--method", "ema")

    planned = run(tmp_path, *options, "--dry-run")
    plan = json.loads(run(tmp_path, *options, "--dry-run", "--json").stdout)
    made = run(tmp_path, *options)

    assert "step 2  step_2.pt  val_loss 0.125  (" in planned.stdout
    assert "skipped step_4.pt: states no 'val_loss'" in planned.stderr
    assert plan["best"] == {"metric": "val_loss", "mode": "min"}
    # Of two, the older has 0.9 of the newer's weight.
    assert [source["weight"] for source in plan["sources"]] == pytest.approx([0.9 / 1.9, 1 / 1.9])
    assert [source["metric"] for source in plan["sources"]] == [0.25, 0.125]
    assert "step 1  step_1.pt  val_loss 0.25\n" in made.stdout
