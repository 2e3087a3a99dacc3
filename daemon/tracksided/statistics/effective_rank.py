"""How many directions the rows of an attention map span."""

import math
from dataclasses import dataclass, field

import numpy as np

from tracksided.samples import FloatArray
from tracksided.stages import AttentionMap
from tracksided.statistics.rows import live_rows, row_mass

MAX_ROWS = 256  # per head: bounds time and memory, and the rank itself
MAX_BLOCK_KEYS = 4096  # taken to float64 at once: 8 MiB
# Below this share of the largest, a singular value of float32 weights is rounding.
ROUNDING = 1e-6


@dataclass(frozen=True, slots=True)
class EffectiveRank:
    """Mean over heads of exp(-sum_i p_i ln p_i), with p the singular values over their sum.

    1 where all rows are equal (a sink, a uniform map), the number of rows where each row looks
    elsewhere (a diagonal). Taken from at most `MAX_ROWS` living rows of a head, evenly chosen.

    Source: Roy and Vetterli 2007, The effective rank: a measure of effective dimensionality,
    EUSIPCO.
    """

    name: str = field(default="effective_rank", init=False)

    def compute(self, attention: AttentionMap) -> float | list[float] | None:
        """Return 1 to the number of rows, or None where no row lives."""
        rows = live_rows(attention, row_mass(attention))
        ranks = [
            _effective_rank(weights[_chosen(living)])
            for weights, living in zip(attention.weights, rows, strict=True)
            if living.any()
        ]
        return math.fsum(ranks) / len(ranks) if ranks else None


def _chosen(living: np.ndarray) -> np.ndarray:
    """Return the indices of at most `MAX_ROWS` living rows, evenly from the first to the last."""
    indices = np.flatnonzero(living)
    if len(indices) <= MAX_ROWS:
        return indices
    places = np.rint(np.linspace(0, len(indices) - 1, MAX_ROWS)).astype(int)
    return np.asarray(indices[places])


def _effective_rank(rows: FloatArray) -> float:
    """Compute the effective rank of [rows, keys]; NaN where a weight is."""
    products = np.zeros((len(rows), len(rows)))  # [rows, rows], of float64
    for start in range(0, rows.shape[1], MAX_BLOCK_KEYS):
        block = rows[:, start : start + MAX_BLOCK_KEYS].astype(np.float64)
        products += block @ block.T
    if not np.isfinite(products).all():
        return math.nan
    # Eigenvalues of A A^T are squares of singular values of A; a tenth of the time.
    singular = np.sqrt(np.maximum(np.linalg.eigvalsh(products), 0))
    singular = singular[singular > singular.max() * ROUNDING]
    shares = singular / singular.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))
