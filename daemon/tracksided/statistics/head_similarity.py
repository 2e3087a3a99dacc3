"""How much the heads of a layer look at the same things."""

from dataclasses import dataclass, field

import numpy as np

from tracksided.stages import AttentionMap


@dataclass(frozen=True, slots=True)
class HeadSimilarity:
    """Mean cosine similarity over all pairs of heads, each map taken as one long vector.

    1 where all heads are equal, 0 where no two attend to a common key.

    Source: after Li et al. 2018, arXiv:1810.10183 (disagreement on attended positions).
    """

    name: str = field(default="head_similarity", init=False)

    def compute(self, attention: AttentionMap) -> float | list[float] | None:
        """Return 0 to 1, or None with fewer than two heads that have weight."""
        flat = attention.weights.reshape(len(attention.weights), -1)  # [heads, queries * keys]
        products = (flat @ flat.T).astype(np.float64)  # [heads, heads]
        norms = np.sqrt(np.diag(products))
        alive = norms != 0
        count = int(alive.sum())
        if count < 2:  # noqa: PLR2004 - a pair
            return None
        cosines = products[np.ix_(alive, alive)] / np.outer(norms[alive], norms[alive])
        mean = (cosines.sum() - count) / (count * (count - 1))
        return float(np.minimum(mean, 1.0))  # equal heads may come out a rounding error above
