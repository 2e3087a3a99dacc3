"""Verdicts on gradient norms, and advice."""

import math

import numpy as np
import pytest

from tracksided.convergence.gradients import gradient_health, num_swings

CALM = [1.0, 1.2, 0.9, 1.1] * 10


def lognormal(sigma: float, count: int = 10_000) -> list[float]:
    """An AR(1) series of logarithms, as healthy runs show them."""
    random = np.random.default_rng(3)
    logs = [0.0]
    for shock in random.standard_normal(count - 1):
        logs.append(0.9 * logs[-1] + sigma * math.sqrt(1 - 0.81) * shock)
    return [math.exp(value) for value in logs]


@pytest.mark.parametrize(
    ("norms", "expected"),
    [
        ([], None),
        ([1.0] * 9, None),
        ([None] * 50, None),
        (CALM, "healthy"),
        ([*CALM, None], "healthy"),
        ([*CALM, 9.9], "healthy"),
        ([*CALM, 12.0], "exploding"),
        ([*CALM, 6.0, 1.0, 6.0, 1.0, 6.0, 1.0], "exploding"),
        ([*CALM, 6.0, 1.0, 6.0, 1.0, 1.0, 1.0], "healthy"),
        ([*CALM, math.nan], "exploding"),
        ([math.inf], "exploding"),
        ([*CALM, math.nan, *CALM], "healthy"),
        ([*CALM, 0.1, 1.0, 0.05, 1.0, 0.09, 1.0], "volatile"),
        ([*CALM, 0.1, 1.0, 1.0], "healthy"),
        ([*([1.0] * 60), *([0.009] * 10)], "vanishing"),
        ([*([1.0] * 60), *([0.011] * 10)], "healthy"),
        ([1e-8] * 40, "vanishing"),
        ([0.0] * 40, "vanishing"),
        ([*([0.0] * 40), 1e-3], "vanishing"),  # no norm is usual that others are above
        ([0.0, 0.0, 0.0, 1e-2] * 10, "volatile"),
    ],
)
def test_verdicts_of_the_table(norms: list[float | None], expected: str | None) -> None:
    assert gradient_health(norms) == expected


def test_swings_are_counted_in_the_newest_twenty_changes() -> None:
    five_swings = [0.05, *[1.0] * 8, 0.05, *[1.0] * 5, 0.05, *[1.0] * 5]  # the first change is one
    assert len(five_swings) == 21

    assert gradient_health([*[1.0] * 40, *five_swings]) == "volatile"
    assert gradient_health([*[1.0] * 40, *five_swings, 1.0]) == "healthy"


def test_the_scale_of_norms_does_not_matter() -> None:
    for norms in (CALM, [*CALM, 12.0], [*([1.0] * 60), *([0.009] * 10)]):
        scaled = [1e4 * norm for norm in norms]
        assert gradient_health(scaled) == gradient_health(norms)


def test_a_healthy_run_is_seldom_called_ill() -> None:
    norms = lognormal(0.3)

    verdicts = [gradient_health(norms[: end + 1]) for end in range(100, len(norms), 7)]

    assert verdicts.count("healthy") >= 0.999 * len(verdicts)


def test_swings_go_both_ways() -> None:
    assert num_swings([1.0, 10.0, 1.0, 1.0, 0.0, 0.0, 5.0, 9.0]) == 4
