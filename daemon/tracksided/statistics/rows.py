"""Which rows of an attention map count, and means over them."""

import numpy as np
from numpy.typing import NDArray

from tracksided.stages import AttentionMap

DoubleArray = NDArray[np.float64]


def row_mass(attention: AttentionMap) -> DoubleArray:
    """Return the sum of each row, [heads, queries]: 1, less with attention sinks, 0 if hidden."""
    return np.asarray(attention.weights.sum(axis=-1, dtype=np.float64))


def visible_keys(attention: AttentionMap) -> NDArray[np.int64]:
    """Count the keys that each row may attend to, [heads, queries]."""
    counts = attention.visible.sum(axis=-1, dtype=np.int64)
    return np.broadcast_to(counts, attention.weights.shape[:2])


def live_rows(attention: AttentionMap, mass: DoubleArray) -> NDArray[np.bool_]:
    """Return which rows see a key and give it weight, [heads, queries].

    A row with NaN counts: hiding it would make a broken map look sound.
    """
    return np.asarray((visible_keys(attention) > 0) & ~(mass == 0))


def mean_where(values: DoubleArray, rows: NDArray[np.bool_]) -> float | None:
    """Return the mean of ``values`` over the chosen rows, or None where there is none."""
    return float(values[rows].mean()) if rows.any() else None
