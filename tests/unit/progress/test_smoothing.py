"""Moving averages and outlines, checked with numpy and naive loops."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracksided.progress.curve import Series
from tracksided.progress.smoothing import moving_average, outline, window_of

VALUES = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=80)


@given(VALUES, st.integers(1, 9))
def test_moving_average_is_the_mean_of_a_naive_loop(values: list[float], window: int) -> None:
    found = moving_average(Series.of(range(len(values)), values), window)

    if window > len(values):
        assert len(found) == 0
        return
    for place in range(len(values)):
        start = max(0, place - window // 2)
        around = values[start : place + (window + 1) // 2]
        assert found.values[place] == pytest.approx(np.mean(around), abs=1e-6)


def test_moving_average_leaves_nan_out() -> None:
    found = moving_average(Series.of([1, 2, 3, 4], [1.0, math.nan, 3.0, 5.0]), 3)

    assert found.steps.tolist() == [1, 3, 4]
    np.testing.assert_allclose(found.values, [2.0, 3.0, 4.0])


@pytest.mark.parametrize(("count", "window"), [(0, 0), (5, 0), (6, 3), (100, 5), (1000, 50)])
def test_window_grows_with_the_curve(count: int, window: int) -> None:
    assert window_of(Series.of(range(count), [0.0] * count)) == window


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=300), st.integers(2, 20))
def test_outline_keeps_ends_and_extremes(values: list[float], bins: int) -> None:
    series = Series.of(range(0, 10 * len(values), 10), values)

    found = outline(series, bins)

    assert len(found) <= max(2 * bins + 2, 1)
    assert (np.diff(found.steps) > 0).all()
    assert (found.values[0], found.values[-1]) == (values[0], values[-1])
    assert (found.values.min(), found.values.max()) == (min(values), max(values))
    assert set(zip(found.steps, found.values, strict=True)) <= set(
        zip(series.steps, series.values, strict=True)
    )
