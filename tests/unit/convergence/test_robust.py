"""Robust slopes and tests of trend, against plain loops."""

import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracksided.convergence.robust import mann_kendall, theil_sen

numbers = st.floats(-1e6, 1e6)


@given(st.lists(st.tuples(st.integers(0, 50), numbers), min_size=2, max_size=12))
def test_the_slope_is_the_median_of_all_pairs(points: list[tuple[int, float]]) -> None:
    slopes = [
        (y2 - y1) / (x2 - x1)
        for i, (x1, y1) in enumerate(points)
        for x2, y2 in points[i + 1 :]
        if x1 != x2
    ]

    found = theil_sen([x for x, _ in points], [y for _, y in points])

    assert found == (pytest.approx(statistics.median(slopes), rel=1e-9) if slopes else None)


def test_a_quarter_of_wild_values_does_not_move_the_slope_far() -> None:
    values = [3.0 - 0.5 * x for x in range(20)]
    for index in range(0, 20, 4):
        values[index] = 1e9

    assert theil_sen(range(20), values) == pytest.approx(-0.5)


@given(st.lists(numbers, min_size=2, max_size=12))
def test_the_order_of_a_series_is_counted_by_pairs(values: list[float]) -> None:
    count = len(values)
    score = sum(
        (values[j] > values[i]) - (values[j] < values[i])
        for i in range(count)
        for j in range(i + 1, count)
    )
    sigma = math.sqrt(count * (count - 1) * (2 * count + 5) / 18)
    expected = 0.0 if score == 0 else (score - (1 if score > 0 else -1)) / sigma

    assert mann_kendall(values) == pytest.approx(expected)


def test_a_published_series() -> None:
    """S = 45 for ten values in ascending order: z = 44 / sqrt(125)."""
    assert mann_kendall(range(10)) == pytest.approx(44 / math.sqrt(125))
