"""Histograms of sampled elements, in equal bins from the smallest to the largest."""

import numpy as np

from tracksided.reports import Histogram
from tracksided.samples import FloatArray

NUM_BINS = 30  # what TensorBoard draws, whatever it is sent


def histogram(tag: str, values: FloatArray, step: int) -> Histogram | None:
    """Count the finite ones among ``values``; None where there is none."""
    finite = values[np.isfinite(values)].astype(np.float64)
    if not finite.size:
        return None
    counts, edges = np.histogram(finite, bins=NUM_BINS)
    return Histogram(
        tag=tag,
        edges=edges,
        counts=counts.astype(np.float64),
        minimum=float(finite.min()),
        maximum=float(finite.max()),
        total=float(finite.sum()),
        sum_squares=float(np.dot(finite, finite)),
        step=step,
    )
