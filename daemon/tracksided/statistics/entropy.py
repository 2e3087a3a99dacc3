"""Entropy of attention: how widely a query spreads its weight.

H = -sum_k p_k ln p_k of each row in nats, where p is the row divided by its sum, so that weight
taken by a learned sink is left out. 0 for a one-hot row, ln(n) for a uniform one over n keys.
Rows that see no key are left out.

Source: Zhai et al. 2023, arXiv:2303.06296 (entropy collapse).
"""

from dataclasses import dataclass, field

import numpy as np

from tracksided.stages import AttentionMap
from tracksided.statistics.rows import (
    DoubleArray,
    live_rows,
    mean_where,
    row_mass,
    visible_keys,
)


@dataclass(frozen=True, slots=True)
class Entropy:
    """Mean entropy of all rows of all kept heads."""

    name: str = field(default="entropy", init=False)

    def compute(self, attention: AttentionMap) -> float | list[float] | None:
        """Return nats, 0 to ln(keys)."""
        mass = row_mass(attention)
        return mean_where(_row_entropy(attention, mass), live_rows(attention, mass))


@dataclass(frozen=True, slots=True)
class EntropyPerHead:
    """Mean entropy of the rows of each kept head, in the order of `AttentionMap.heads`."""

    name: str = field(default="entropy_per_head", init=False)

    def compute(self, attention: AttentionMap) -> float | list[float] | None:
        """Return nats per head, NaN for a head without a visible key."""
        mass = row_mass(attention)
        entropy, rows = _row_entropy(attention, mass), live_rows(attention, mass)
        means = [mean_where(entropy[head], rows[head]) for head in range(len(entropy))]
        return [float("nan") if mean is None else mean for mean in means]


@dataclass(frozen=True, slots=True)
class NormalizedEntropy:
    """Mean over rows of H / ln(visible keys): comparable over lengths and causal masks.

    A row with one visible key has no choice and is left out.
    """

    name: str = field(default="normalized_entropy", init=False)

    def compute(self, attention: AttentionMap) -> float | list[float] | None:
        """Return 0 (one-hot) to 1 (uniform over what is visible)."""
        mass = row_mass(attention)
        counts = visible_keys(attention)
        rows = live_rows(attention, mass) & (counts > 1)
        limits = np.log(np.maximum(counts, 2))
        shares = np.minimum(_row_entropy(attention, mass) / limits, 1.0)  # uniform ones are rounded
        return mean_where(shares, rows)


def _row_entropy(attention: AttentionMap, mass: DoubleArray) -> DoubleArray:
    """Return the entropy of each row, [heads, queries]; 0 where a row has no mass."""
    surprise = np.empty(mass.shape)
    smallest = np.finfo(np.float32).tiny  # ln 0 times 0 would be NaN
    for head, weights in enumerate(attention.weights):  # one head at a time bounds the memory
        products = np.log(np.maximum(weights, smallest))
        products *= weights
        surprise[head] = -products.sum(axis=-1, dtype=np.float64)
    safe_mass = np.where(mass == 0, 1.0, mass)
    entropy = np.log(safe_mass) + surprise / safe_mass
    return np.maximum(entropy, 0.0)  # rounding leads a one-hot row a little below
