"""Mean, standard deviation and range of all weights of a map."""

import math
from dataclasses import dataclass, field

import numpy as np

from tracksided.stages import AttentionMap


@dataclass(frozen=True, slots=True)
class MeanWeight:
    """Mean over kept heads, kept queries and all keys; 1 / keys where every row sums to 1."""

    name: str = field(default="mean", init=False)

    def compute(self, attention: AttentionMap) -> float | list[float] | None:
        """Return the mean, 0 to 1."""
        return float(attention.weights.mean(dtype=np.float64))


@dataclass(frozen=True, slots=True)
class StdWeight:
    """Population standard deviation of the weights: 0 for a uniform map."""

    name: str = field(default="std", init=False)

    def compute(self, attention: AttentionMap) -> float | list[float] | None:
        """Return the standard deviation, 0 to 0.5."""
        weights = attention.weights
        mean = weights.mean(dtype=np.float64)
        # Head by head: numpy's own deviation copies the whole map as float64.
        squares = sum(float(np.square(head - mean).sum()) for head in weights)
        return math.sqrt(squares / weights.size)


@dataclass(frozen=True, slots=True)
class MinWeight:
    """Smallest weight; 0 wherever a key is hidden."""

    name: str = field(default="min", init=False)

    def compute(self, attention: AttentionMap) -> float | list[float] | None:
        """Return the minimum, 0 to 1."""
        return float(attention.weights.min())


@dataclass(frozen=True, slots=True)
class MaxWeight:
    """Largest weight."""

    name: str = field(default="max", init=False)

    def compute(self, attention: AttentionMap) -> float | list[float] | None:
        """Return the maximum, 0 to 1."""
        return float(attention.weights.max())
