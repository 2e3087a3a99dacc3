"""Where a query looks, relative to its own position.

Defined where queries and keys are the same sequence: self attention with as many keys as
queries. With a key-value cache or a prefix the positions are not known, and neither are these.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tracksided.stages import AttentionMap
from tracksided.statistics.rows import live_rows, mean_where, row_mass


@dataclass(frozen=True, slots=True)
class DiagonalMass:
    """Mean weight that a query gives to its own position.

    Source: Clark et al. 2019, arXiv:1906.04341, section 3.1.
    """

    name: str = field(default="diagonal_mass", init=False)

    def compute(self, attention: AttentionMap) -> float | list[float] | None:
        """Return 0 to 1, or None where positions are not known."""
        return _offset_mass(attention, 0)


@dataclass(frozen=True, slots=True)
class PreviousTokenMass:
    """Mean weight that a query gives to the position before it; the first query has none.

    Source: Clark et al. 2019, arXiv:1906.04341, section 3.1; Voita et al. 2019,
    arXiv:1905.09418 (positional heads).
    """

    name: str = field(default="previous_token_mass", init=False)

    def compute(self, attention: AttentionMap) -> float | list[float] | None:
        """Return 0 to 1, or None where positions are not known or there is one query."""
        return _offset_mass(attention, 1)


@dataclass(frozen=True, slots=True)
class MeanDistance:
    """Mean over rows of sum_k p_k |query - key|, with p the row divided by its sum.

    Source: Vig and Belinkov 2019, arXiv:1906.04284, section 4.3.
    """

    name: str = field(default="mean_distance", init=False)

    def compute(self, attention: AttentionMap) -> float | list[float] | None:
        """Return tokens, 0 to keys - 1, or None where positions are not known."""
        positions = _positions(attention)
        if positions is None:
            return None
        mass = row_mass(attention)
        keys = np.arange(attention.weights.shape[2])
        distances = np.abs(positions[:, None] - keys).astype(np.float32)  # [queries, keys]
        totals = np.einsum("hqk,qk->hq", attention.weights, distances, dtype=np.float64)
        return mean_where(totals / np.where(mass == 0, 1.0, mass), live_rows(attention, mass))


def _positions(attention: AttentionMap) -> NDArray[np.int64] | None:
    """Return the position of each kept query, or None where it cannot be told."""
    same_sequence = attention.num_queries == attention.weights.shape[2]
    return attention.query_rows if attention.type == "self_attention" and same_sequence else None


def _offset_mass(attention: AttentionMap, offset: int) -> float | None:
    """Return the mean weight that queries give to the key ``offset`` positions before them."""
    positions = _positions(attention)
    if positions is None:
        return None
    indices = np.flatnonzero(positions >= offset)
    masses = attention.weights[:, indices, positions[indices] - offset].astype(np.float64)
    rows = live_rows(attention, row_mass(attention))[:, indices]
    return mean_where(masses, rows)
