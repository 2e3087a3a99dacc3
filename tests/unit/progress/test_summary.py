"""The numbers of one curve, checked with numpy."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracksided.progress.curve import Kind, Series, Totals, TrainingCurve
from tracksided.progress.summary import statistics, summarise, trend


def curve(**changes: object) -> TrainingCurve:
    return TrainingCurve(name="run", source=Path("run"), kind=Kind.TRAINER_STATE, **changes)  # type: ignore[arg-type] # names of fields


def test_numbers_of_a_series_leave_nan_out_but_count_it() -> None:
    found = statistics(Series.of([1, 2, 3, 4, 5], [4.0, 1.0, math.inf, 3.0, math.nan]))

    assert found is not None
    assert (found.count, found.nonfinite, found.current_step) == (5, 2, 5)
    assert math.isnan(found.current)
    assert (found.first, found.minimum, found.minimum_step) == (4.0, 1.0, 2)
    assert (found.maximum, found.maximum_step) == (4.0, 1)
    assert found.mean == pytest.approx((4 + 1 + 3) / 3)
    assert found.median == 3.0


def test_series_without_a_finite_value_has_no_smallest() -> None:
    found = statistics(Series.of([1], [math.nan]))

    assert found is not None
    assert (found.minimum, found.maximum, found.mean, found.median) == (None, None, None, None)
    assert statistics(Series.of([], [])) is None


@given(st.lists(st.floats(-1e3, 1e3), min_size=8, max_size=60))
def test_slope_of_the_newer_half_is_that_of_polyfit(values: list[float]) -> None:
    steps = np.arange(len(values)) * 10 + 10
    found = trend(Series.of(steps.tolist(), values))

    assert found is not None
    newer = max(8, math.ceil(len(values) / 2))
    slope = np.polyfit(steps[-newer:].astype(float), values[-newer:], 1)[0]
    assert found.slope == pytest.approx(1000 * slope, rel=1e-6, abs=1e-6)
    assert (found.points, found.since_step) == (newer, steps[-newer])


@pytest.mark.parametrize(
    ("slope", "noise", "direction"),
    [(-0.01, 0.05, "falling"), (0.01, 0.05, "rising"), (-1e-5, 1.0, "flat"), (0.0, 0.0, "flat")],
)
def test_direction_is_told_where_it_is_clear_of_noise(
    slope: float, noise: float, direction: str
) -> None:
    steps = np.arange(100)
    values = 3 + slope * steps + noise * np.random.default_rng(0).standard_normal(100)

    found = trend(Series.of(steps.tolist(), values.tolist()))

    assert found is not None
    assert found.direction == direction


def test_few_values_have_no_trend() -> None:
    assert trend(Series.of([*range(8)], [math.nan, *range(7)])) is None


def test_progress_and_time_left_come_from_steps() -> None:
    summary = summarise(
        curve(
            step=300,
            max_steps=1200,
            num_epochs=4.0,
            epoch=Series.of([300], [1.0]),
            seconds_per_step=Series.of(range(1, 41), [9.0] * 20 + [0.5] * 20),
            samples_per_step=16.0,
            tokens=Series.of([100, 300], [1000.0, 5000.0]),
        )
    )

    assert (summary.step_percent, summary.epoch_percent) == (25.0, 25.0)
    assert summary.speed.steps_per_second == 2.0  # of the newest 20 only
    assert summary.speed.num_intervals == 20
    assert summary.speed.samples_per_second == 32.0
    assert summary.speed.tokens_per_second == 2.0 * 4000 / 200
    assert summary.speed.remaining_seconds == 900 / 2.0
    assert summary.tokens == 5000.0


def test_time_left_comes_from_epochs_where_the_number_of_steps_is_unknown() -> None:
    summary = summarise(
        curve(
            step=300,
            num_epochs=4.0,
            epoch=Series.of([300], [1.5]),
            totals=Totals(steps_per_second=5.0),
        )
    )

    assert summary.speed.remaining_seconds == pytest.approx((300 * 4 / 1.5 - 300) / 5.0)
    assert summary.speed.num_intervals == 0


def test_unknown_stays_unknown() -> None:
    summary = summarise(curve())

    assert (summary.step, summary.step_percent, summary.epoch, summary.loss) == (None,) * 4
    assert (summary.learning_rate, summary.gradient_norm, summary.clipped) == (None,) * 3
    speed = summary.speed
    assert (speed.steps_per_second, speed.samples_per_second, speed.remaining_seconds) == (
        None,
    ) * 3
    assert (summary.tokens, summary.training_seconds, summary.evaluation) == (None, None, {})


def test_gradient_norms_above_the_limit_are_counted() -> None:
    norms = Series.of([1, 2, 3, 4], [0.5, 1.5, math.nan, 1.0])

    assert summarise(curve(gradient_norm=norms, max_gradient_norm=1.0)).clipped == (1, 3)
    assert summarise(curve(gradient_norm=norms)).clipped is None
