"""The numbers of one curve."""

import math

import pytest
from training_logs import make_curve

from tracksided.progress.curve import Series, Totals
from tracksided.progress.summary import statistics, summarise


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


def test_progress_and_time_left_come_from_steps() -> None:
    summary = summarise(
        make_curve(
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
        make_curve(
            step=300,
            num_epochs=4.0,
            epoch=Series.of([300], [1.5]),
            totals=Totals(steps_per_second=5.0),
        )
    )

    assert summary.speed.remaining_seconds == pytest.approx((300 * 4 / 1.5 - 300) / 5.0)
    assert summary.speed.num_intervals == 0


def test_time_left_is_unknown_at_the_very_beginning() -> None:
    begun = {"step": 0, "epoch": Series.of([0], [0.0]), "num_epochs": 3.0}

    summary = summarise(make_curve(**begun, totals=Totals(steps_per_second=5.0)))

    assert summary.speed.remaining_seconds is None


def test_unknown_stays_unknown() -> None:
    summary = summarise(make_curve())

    assert (summary.step, summary.step_percent, summary.epoch, summary.loss) == (None,) * 4
    assert (summary.learning_rate, summary.gradient_norm, summary.clipped) == (None,) * 3
    speed = summary.speed
    assert (speed.steps_per_second, speed.samples_per_second, speed.remaining_seconds) == (
        None,
    ) * 3
    assert (summary.tokens, summary.training_seconds, summary.evaluation) == (None, None, {})


def test_gradient_norms_above_the_limit_are_counted() -> None:
    norms = Series.of([1, 2, 3, 4], [0.5, 1.5, math.nan, 1.0])

    assert summarise(make_curve(gradient_norm=norms, max_gradient_norm=1.0)).clipped == (1, 3)
    assert summarise(make_curve(gradient_norm=norms)).clipped is None
