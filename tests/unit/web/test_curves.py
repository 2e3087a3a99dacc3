import math
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tracksided.web.curves import KEPT_ROWS, MAX_POINTS, Curves


def line(step: int, **changes: Any) -> dict[str, Any]:
    return {"step": step, "loss": float(step), **changes}


def layer(number: int, entropy: float | None, **changes: Any) -> dict[str, Any]:
    return {"layer": number, "type": "self_attention", "entropy": entropy, **changes}


def test_unknown_and_infinite_values_are_none():
    curves = Curves()

    curves.add(line(1, loss=None, lr=math.inf, norm_before_clip="much", step_seconds=True))

    columns = curves.columns()
    assert [columns[name] for name in ("loss", "lr", "norm_before_clip", "step_seconds")] == [
        [None]
    ] * 4


def test_a_value_that_was_not_finite_is_told_from_an_unknown_one():
    curves = Curves()

    curves.add(line(1, loss=None, norm_before_clip=None, nonfinite=["loss", "ranks.0.loss"]))

    columns = curves.columns()
    assert columns["loss"] == ["NaN"]
    assert columns["norm_before_clip"] == [None]
    rows = curves.rows_from(0)
    assert rows is not None
    assert (rows[0]["loss"], rows[0]["norm_before_clip"]) == ("NaN", None)


@pytest.mark.parametrize("foreign", [["step", "timestamp"], "loss", {"loss": 1}, None, [["loss"]]])
def test_a_list_of_foreign_make_breaks_no_step(foreign: object):
    curves = Curves()

    curves.add(line(1, nonfinite=foreign))

    assert curves.columns()["step"] == [1.0]
    assert curves.columns()["loss"] == [1.0]


def test_a_line_without_a_step_says_nothing():
    curves = Curves()

    curves.add({"loss": 1.0})

    assert len(curves) == curves.num_rows == 0


def test_a_layer_that_comes_later_is_unknown_before():
    curves = Curves()
    curves.add(line(1, attention={"encoder": [], "decoder": [layer(0, 1.0)]}))
    curves.add(
        line(
            2,
            attention={
                "encoder": [layer(0, 3.0)],
                "decoder": [layer(0, None), layer(0, 2.0, type="cross_attention")],
            },
        )
    )

    assert curves.columns()["entropy"] == {
        "decoder 0 self": [1.0, None],
        "encoder 0 self": [None, 3.0],
        "decoder 0 cross": [None, 2.0],
    }


def test_a_training_that_went_back_drops_the_abandoned_steps():
    curves = Curves()
    for step in (10, 20, 30, 40):
        curves.add(line(step))

    curves.add(line(20, loss=7.0))

    assert curves.columns()["step"] == [10, 20]
    assert curves.columns()["loss"] == [10, 7.0]


def test_a_browser_gets_the_rows_that_it_missed():
    curves = Curves()
    for step in range(1, 11):
        curves.add(line(step))

    rows = curves.rows_from(7)

    assert rows is not None
    assert [row["step"] for row in rows] == [8, 9, 10]
    assert curves.rows_from(10) == []


def test_a_browser_that_missed_too_much_or_knows_more_begins_anew():
    curves = Curves()
    for step in range(1, KEPT_ROWS + 3):
        curves.add(line(step))

    assert curves.rows_from(1) is None
    assert curves.rows_from(curves.num_rows + 1) is None


def test_a_long_run_keeps_its_whole_span_in_bounded_memory():
    curves = Curves()
    num_steps = 10 * MAX_POINTS + 7
    for step in range(1, num_steps + 1):
        curves.add(line(step))

    columns = curves.columns()

    assert MAX_POINTS <= len(columns["step"]) <= 2 * MAX_POINTS
    assert columns["step"][-1] == num_steps
    gaps = {after - before for before, after in pairwise(columns["step"])}
    assert columns["step"][0] <= max(gaps)
    assert columns["loss"] == columns["step"]


@settings(max_examples=50)
@given(st.lists(st.integers(1, 50), max_size=40))
def test_steps_ascend_whatever_comes(steps: list[int]):
    curves, kept = Curves(), []

    for step in steps:
        curves.add(line(step))
        kept = [before for before in kept if before < step] + [step]

    assert curves.columns()["step"] == kept
