"""Trend and convergence of losses whose course is known."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracksided.convergence.loss import (
    MIN_POINTS,
    TREND_POINTS,
    Reference,
    convergence_score,
    find_reference,
    is_stagnant,
    loss_trend,
    newer_trend,
)
from tracksided.convergence.robust import mann_kendall

EVERY = 100


def losses(curve: Callable[[float], float], count: int, noise: float = 0.0) -> list[float]:
    random = np.random.default_rng(7)
    return [curve(EVERY * i) + noise * random.standard_normal() for i in range(1, count + 1)]


def score_of(values: list[float]) -> float | None:
    steps = [EVERY * i for i in range(1, len(values) + 1)]
    return convergence_score(newer_trend(steps, values), find_reference(steps, values))


def trend_of(values: list[float | None]) -> object:
    return loss_trend(range(EVERY, EVERY * len(values) + 1, EVERY), values)


def test_a_straight_line_has_its_slope_and_has_not_converged() -> None:
    values = losses(lambda step: 10 - step / 5000, 300)

    trend = loss_trend(range(EVERY, 30001, EVERY), values)

    assert trend is not None
    assert trend.slope == pytest.approx(-1 / 5000)
    # The oldest 16 of 64 samples lie around 24450, the newest around 29250.
    oldest, newest = 10 - 24450 / 5000, 10 - 29250 / 5000
    assert trend.relative_change == pytest.approx(newest / oldest - 1)
    assert (trend.direction, trend.num_points) == ("falling", TREND_POINTS)
    assert trend.noise == pytest.approx(0.0, abs=1e-9)
    assert score_of(values) == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("exponent", [0.1, 0.5, 1.0])
def test_a_power_law_has_the_score_of_its_closed_form(exponent: float) -> None:
    """Slope now over mean slope since t0 = 1 is a / (T^a - 1) at the time T."""
    values = losses(lambda step: (step / 300) ** -exponent, 2000)
    ratio = (200000 - (TREND_POINTS - 1) * EVERY / 2) / 300

    assert score_of(values) == pytest.approx(1 - exponent / (ratio**exponent - 1), abs=0.01)


def test_an_exponential_fall_converges() -> None:
    def curve(step: float) -> float:
        return 2 + 5 * math.exp(-step / 2000)

    scores = [score_of(losses(curve, count, noise=0.02)) for count in (20, 60, 120, 400)]

    assert scores == sorted(scores)
    assert scores[0] is not None
    assert scores[0] < 0.3
    assert scores[-1] is not None
    assert scores[-1] > 0.97


@pytest.mark.parametrize("count", [40, 128, 300])
def test_noise_around_a_constant_has_not_converged(count: int) -> None:
    assert score_of(losses(lambda _: 3.0, count, noise=0.05)) == 0.0


def test_a_rising_loss_has_not_converged() -> None:
    values = losses(lambda step: 5 - step / 5000 if step < 15000 else step / 5000 - 1, 300)
    trend = trend_of(list(values))

    assert trend.direction == "rising"  # type: ignore[attr-defined]  # it is known
    assert score_of(values) == 0.0


@pytest.mark.parametrize(
    ("count", "expected"), [(10, 10), (24, 12), (90, 45), (128, 64), (300, 64)]
)
def test_of_a_short_run_the_newer_half_counts(count: int, expected: int) -> None:
    trend = newer_trend(range(count), [float(i) for i in range(count)])

    assert trend is not None
    assert trend.num_points == expected
    assert trend.since_step == count - expected


def test_few_or_unknown_losses_are_not_judged() -> None:
    assert trend_of([1.0] * (MIN_POINTS - 1)) is None
    assert trend_of([math.nan, None, math.inf] * 20) is None
    assert find_reference([1, 2, 3, 4], [1.0] * 4) is None
    assert convergence_score(None, Reference(step=1.0, loss=2.0)) is None


def test_an_order_that_falls_between_ends_that_rise_is_no_direction() -> None:
    begin = [-n / 100 for n in range(16)]
    middle = [10 - n / 10 for n in range(32)]
    end = [1 - n / 100 for n in range(16)]
    falls = [*begin, *middle, *end]
    # Of pairs 120 fall in each end, 496 in the middle and 512 behind it; 768 rise.
    assert mann_kendall(falls) == pytest.approx(-(480 - 1) / math.sqrt(64 * 63 * 133 / 18))

    assert trend_of(falls).direction == "flat"  # type: ignore[attr-defined]  # it is known
    rises = [-loss for loss in falls]
    assert trend_of(rises).direction == "flat"  # type: ignore[attr-defined]  # it is known


def test_the_smallest_of_falls_is_scored() -> None:
    smallest = math.ulp(0.0)
    reference = Reference(step=1.0, loss=smallest)

    trend = trend_of([0.0] * MIN_POINTS)

    assert convergence_score(trend, reference) == 1.0


def test_unknown_losses_are_left_out() -> None:
    values: list[float | None] = [10.0 - i for i in range(40)]
    values[5], values[20] = None, math.nan

    trend = trend_of(values)

    assert trend.slope == pytest.approx(-1 / EVERY)  # type: ignore[attr-defined]  # it is known
    assert trend.num_points == 38  # type: ignore[attr-defined]  # the same


def test_one_spike_is_no_trend() -> None:
    values = losses(lambda _: 3.0, TREND_POINTS, noise=0.001)
    values[-2] = 1e6

    trend = loss_trend(range(TREND_POINTS), values)

    assert trend is not None
    assert trend.direction == "flat"
    assert trend.relative_change == pytest.approx(0.0, abs=1e-3)


@pytest.mark.parametrize(
    ("values", "change", "direction"),
    [
        # From 2 to 0.02: 99 % of what it was, not 13 times its median of 0.15.
        ([2.1, 2.0, 1.9, 0.5, 0.2, 0.1, 0.05, 0.03, 0.02, 0.01], -0.99, "falling"),
        ([2.1, 2.0, 1.9, 0.5, 0.2, 0.1, 0.05, 0.0, 0.0, 0.0], -1.0, "falling"),
        # The same backwards: of the median 0.15, since 99 times nearly nothing is no figure.
        ([0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 1.9, 2.0, 2.1], 1.98 / 0.15, "rising"),
        # Through 0, from -0.8 to 0.8.
        ([i / 10 for i in (-9, -8, -7, -5, -2, 2, 5, 7, 8, 9)], 1.6 / 0.8, "rising"),
        ([-1.0, -2.0, -3.0, -4.0, -5.0, -6.0, -7.0, -8.0, -9.0, -10.0], -7 / 5.5, "falling"),
        ([0.0] * 10, 0.0, "flat"),
        ([0.0] * 6 + [1.0, 2.0, 3.0, 4.0], 1.0, "rising"),  # of what it came to
        # It fell long and has come back in the end: no direction is clear.
        ([9.0, 9.0, 9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 9.5, 3.0, 2.0, 9.5, 9.5], 0.5 / 9, "flat"),
    ],
)
def test_the_change_is_of_where_the_window_began(
    values: list[float], change: float, direction: str
) -> None:
    trend = loss_trend(range(len(values)), values)

    assert trend is not None
    assert trend.relative_change == pytest.approx(change)
    assert trend.direction == direction


@pytest.mark.parametrize(
    ("curve", "count", "expected"),
    [
        (lambda _: 3.0, TREND_POINTS - 1, None),
        (lambda _: 3.0, TREND_POINTS, True),
        (lambda step: 3.0 - step / 1e6, TREND_POINTS, False),
        (lambda step: 3.0 + step / 1e4, TREND_POINTS, False),
    ],
)
def test_stagnation_is_a_full_window_that_goes_nowhere(
    curve: Callable[[float], float], count: int, expected: object
) -> None:
    assert is_stagnant(loss_trend(range(count), losses(curve, count))) is expected


@given(
    st.lists(st.floats(0.1, 10), min_size=MIN_POINTS, max_size=80),
    st.floats(1e-6, 1e6),
    st.integers(1, 1000),
)
def test_scales_of_loss_and_steps_change_nothing(
    values: list[float], scale: float, every: int
) -> None:
    steps = list(range(1, len(values) + 1))
    scaled = [value * scale for value in values]
    plain = loss_trend(steps, values)
    other = loss_trend([step * every for step in steps], scaled)

    assert plain is not None
    assert other is not None
    assert other.relative_change == pytest.approx(plain.relative_change, rel=1e-6, abs=1e-9)
    score = convergence_score(plain, find_reference(steps, values))
    reference = find_reference([step * every for step in steps], scaled)
    assert convergence_score(other, reference) == pytest.approx(score, rel=1e-3, abs=1e-6)
    assert score is None or 0 <= score <= 1
