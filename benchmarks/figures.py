"""Numbers with their spread, as every benchmark states them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 4000
INTERVAL_PERCENT = 95
QUARTILES = "quartiles of the rounds"
BOOTSTRAP = f"{INTERVAL_PERCENT} % interval of the median (bootstrap)"


@dataclass(frozen=True, slots=True)
class Spread:
    """A median and an interval around it; the table that holds it says which."""

    median: float
    low: float
    high: float


Figure = Spread | float | int | str | bool | None
"""What a cell holds; None is unknown or does not apply."""


def quartiles(values: Sequence[float]) -> Spread:
    """Take the median and the interquartile range."""
    low, median, high = np.percentile(values, (25, 50, 75))
    return Spread(float(median), float(low), float(high))


def bootstrap(values: Sequence[float]) -> Spread:
    """Take the median and its bootstrap interval (Efron 1979, percentile method)."""
    sample = np.asarray(values)
    picks = np.random.default_rng(0).integers(len(sample), size=(RESAMPLES, len(sample)))
    outside = (100 - INTERVAL_PERCENT) / 2
    low, high = np.percentile(np.median(sample[picks], axis=1), (outside, 100 - outside))
    return Spread(float(np.median(sample)), float(low), float(high))


def ratios(ones: Sequence[float], others: Sequence[float]) -> list[float]:
    """Compare round by round: what slows a whole round cancels out."""
    return [one / other for one, other in zip(ones, others, strict=True)]
