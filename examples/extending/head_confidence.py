"""How sure each head is of where it looks."""

from dataclasses import dataclass, field

import numpy as np

from tracksided.stages import AttentionMap
from tracksided.statistics.rows import live_rows, row_mass


@dataclass(frozen=True, slots=True)
class HeadConfidence:
    """Mean over the rows of each kept head of the largest weight in the row, 0 to 1.

    Heads that matter most for translation are confident ones; near 1 / keys a head averages.

    Source: Voita et al. 2019, arXiv:1905.09418, section 4.
    """

    name: str = field(default="confidence_per_head", init=False)

    def compute(self, attention: AttentionMap) -> list[float]:
        """Return one value per head, NaN where no row of it lives."""
        largest = attention.weights.max(axis=-1).astype(np.float64)  # [heads, queries]
        lives = live_rows(attention, row_mass(attention))
        return [
            float(row[alive].mean()) if alive.any() else float("nan")
            for row, alive in zip(largest, lives, strict=True)
        ]
