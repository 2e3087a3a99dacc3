"""Curves made fit for a picture: moving averages, and fewer points that look the same."""

import itertools

import numpy as np

from tracksided.progress.curve import EMPTY, Series

WINDOWS = 20  # a moving average spans this share of a curve, one n-th
MIN_WINDOW = 3
MIN_POINTS = 6  # fewer are read off one by one
MAX_BINS = 1200  # across a picture: about one for each pixel


def window_of(series: Series) -> int:
    """Return over how many values the moving average of a series goes; 0 for none."""
    count = len(series.finite)
    return 0 if count < MIN_POINTS else max(MIN_WINDOW, round(count / WINDOWS))


def moving_average(series: Series, window: int) -> Series:
    """Average each finite value with its neighbours, ``window`` values in all.

    As many before as behind it, so that the average does not lag, and one more before it where
    ``window`` is even; at both ends only those that are there.
    """
    finite = series.finite
    count = len(finite)
    if not 0 < window <= count:
        return EMPTY
    # From the mean of all: a running sum of small differences loses no digits.
    offset = finite.values.mean()
    sums = np.concatenate(([0.0], np.cumsum(finite.values - offset)))
    places = np.arange(count)
    start = np.maximum(places - window // 2, 0)
    end = np.minimum(places + (window + 1) // 2, count)
    means = (sums[end] - sums[start]) / (end - start) + offset
    return Series(finite.steps, means)


def outline(series: Series, max_bins: int = MAX_BINS) -> Series:
    """Keep the smallest and largest finite value of each of ``max_bins`` spans of steps.

    A line through them covers the same pixels as one through all values.
    """
    finite = series.finite
    if len(finite) <= 2 * max_bins:
        return finite
    edges = np.linspace(0, len(finite), max_bins + 1).astype(np.int64)
    kept = {0, len(finite) - 1}
    for start, end in itertools.pairwise(edges.tolist()):
        part = finite.values[start:end]
        kept.update((start + int(part.argmin()), start + int(part.argmax())))
    places = np.array(sorted(kept))
    return Series(finite.steps[places], finite.values[places])
