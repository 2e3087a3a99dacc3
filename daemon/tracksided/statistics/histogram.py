"""Histograms of sampled elements, in equal bins from the smallest to the largest."""

import numpy as np

from tracksided.reports import Histogram
from tracksided.samples import FloatArray

NUM_BINS = 30  # what TensorBoard draws, whatever it is sent
EQUAL_VALUES_ROOM = 1e-6  # of the value


def histogram(tag: str, values: FloatArray, step: int) -> Histogram | None:
    """Count the finite ones among ``values``; None where there is none.

    Args:
        tag: of the histogram, ``Group/Name``.
        values: [n], of any magnitude.
        step: under which it stands.
    """
    finite = values[np.isfinite(values)].astype(np.float64)
    if not finite.size:
        return None
    low, high = float(finite.min()), float(finite.max())
    # Equal values need room around them that float64 can divide.
    room = 0.0 if low < high else max(0.5, abs(low) * EQUAL_VALUES_ROOM)
    counts, edges = np.histogram(finite, bins=NUM_BINS, range=(low - room, high + room))
    return Histogram(
        tag=tag,
        edges=edges,
        counts=counts.astype(np.float64),
        minimum=low,
        maximum=high,
        total=float(finite.sum()),
        sum_squares=float(np.dot(finite, finite)),
        step=step,
    )
