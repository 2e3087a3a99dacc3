"""Figures of a series that a few outliers do not move."""

import functools
import math
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

MAD_TO_SIGMA = 1.4826  # 1 / Phi^-1(3/4): what makes it a standard deviation for a normal sample


def finite(values: Iterable[float | None]) -> list[float]:
    """Return what is known and finite, in order."""
    return [value for value in values if value is not None and math.isfinite(value)]


def median(values: Sequence[float]) -> float:
    """Return the median of a series that is not empty.

    Sorted here: numpy takes longer for the few hundred values that rules look at.
    """
    ordered = sorted(values)
    middle = len(ordered) // 2
    if len(ordered) % 2:
        return ordered[middle]
    return ordered[middle - 1] / 2 + ordered[middle] / 2  # their sum may overflow


def spread(values: Sequence[float]) -> float:
    """Return the standard deviation by the median absolute deviation; see `MAD_TO_SIGMA`.

    Source: Rousseeuw and Croux 1993, doi:10.1080/01621459.1993.10476408.
    """
    middle = median(values)
    return MAD_TO_SIGMA * median([abs(value - middle) for value in values])


def logarithms(values: Iterable[float | None]) -> list[float]:
    """Return the natural logarithms of what is known, finite and above 0, in order."""
    return [math.log(value) for value in finite(values) if value > 0]


def theil_sen(steps: Sequence[float], values: Sequence[float]) -> float | None:
    """Return the slope of a series: the median of the slopes between all pairs of points.

    Up to 29 % of the values may be anything at all without moving it far. None where no two points
    have different steps.

    Source: Sen 1968, doi:10.1080/01621459.1968.10480934.

    Args:
        steps: where the values stand.
        values: finite, as many as steps; the work grows with the square of their number.
    """
    x, y = np.asarray(steps, dtype=np.float64), np.asarray(values, dtype=np.float64)
    first, second = _pairs(len(x))
    run = x[second] - x[first]
    is_apart = run != 0
    if not is_apart.any():
        return None
    return float(np.median((y[second] - y[first])[is_apart] / run[is_apart]))


def mann_kendall(values: Sequence[float]) -> float:
    """Return how many standard deviations the order of a series is away from no trend at all.

    S counts the pairs that rise less those that fall; z = (S - sign S) / sigma with
    sigma^2 = n (n - 1) (2 n + 5) / 18, which is without a correction for ties.

    Source: Mann 1945, doi:10.2307/1907187; Kendall 1975, Rank Correlation Methods.

    Args:
        values: finite, in order of time, at least two; taken as independent of each other.

    Returns:
        Positive where the series rises.
    """
    y: FloatArray = np.asarray(values, dtype=np.float64)
    count = len(y)
    first, second = _pairs(count)
    score = float(np.sign(y[second] - y[first]).sum())
    deviation = math.sqrt(count * (count - 1) * (2 * count + 5) / 18)
    return (score - math.copysign(1.0, score)) / deviation if score else 0.0


@functools.lru_cache(maxsize=128)
def _pairs(count: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the places of all pairs of a series; windows have few lengths, so they are kept."""
    first, second = np.triu_indices(count, k=1)
    for places in (first, second):
        places.flags.writeable = False
    return first, second
