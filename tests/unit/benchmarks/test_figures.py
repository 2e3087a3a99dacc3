"""Medians and their intervals, against a second source."""

import math
import statistics

import numpy as np
import pytest
from figures import bootstrap, quartiles, ratios


def test_quartiles_are_those_of_the_standard_library() -> None:
    values = [3.0, 1.0, 4.0, 1.5, 9.0, 2.6, 5.0]

    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    found = quartiles(values)
    assert (found.low, found.median, found.high) == pytest.approx((low, median, high))


def test_the_bootstrap_interval_is_as_wide_as_theory_has_it() -> None:
    values = np.random.default_rng(1).normal(5.0, 1.0, 2000)

    found = bootstrap(values)

    # The median of n normal values has a standard error of sqrt(pi / 2 n).
    width = 2 * 1.96 * math.sqrt(math.pi / (2 * len(values)))
    assert found.high - found.low == pytest.approx(width, rel=0.2)
    assert found.median == pytest.approx(statistics.median(values))


def test_ratios_are_taken_within_rounds() -> None:
    assert ratios([2.0, 30.0], [1.0, 10.0]) == [2.0, 3.0]


def test_ratios_of_unequal_rounds_are_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        ratios([1.0, 2.0, 3.0], [1.0, 2.0])
