"""The weight that the first key attracts."""

from dataclasses import dataclass, field

import numpy as np

from tracksided.stages import AttentionMap
from tracksided.statistics.rows import live_rows, mean_where, row_mass


@dataclass(frozen=True, slots=True)
class SinkMass:
    """Mean weight on key 0, over the rows that may attend to it.

    Only key 0 is looked at: a sink elsewhere is not seen. The first row of a causal map gives
    key 0 all its weight and counts, as in the source. Learned sink logits are not keys.

    Source: Gu et al. 2024, arXiv:2410.10781; Xiao et al. 2023, arXiv:2309.17453.
    """

    name: str = field(default="sink_mass", init=False)

    def compute(self, attention: AttentionMap) -> float | list[float] | None:
        """Return 0 to 1, or None where key 0 is hidden from every row."""
        first = attention.weights[:, :, 0].astype(np.float64)
        rows = live_rows(attention, row_mass(attention)) & attention.visible[:, :, 0]
        return mean_where(first, rows)
