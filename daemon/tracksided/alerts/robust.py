"""Figures of a series that a few outliers do not move."""

import math
from collections.abc import Iterable, Sequence

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
