"""The largest attention logit: grows without bound before some trainings diverge."""

from dataclasses import dataclass, field

import numpy as np

from tracksided.stages import AttentionMap


@dataclass(frozen=True, slots=True)
class MaxLogit:
    """Largest visible logit over all kept heads, after scale and mask, before softmax.

    Source: Dehghani et al. 2023, arXiv:2302.05442; Wortsman et al. 2023, arXiv:2309.14322.
    """

    name: str = field(default="max_logit", init=False)

    def compute(self, attention: AttentionMap) -> float | list[float] | None:
        """Return the logit, or None where no head sees a key."""
        sees = attention.visible.any(axis=(1, 2))  # [1 or heads]
        sees = np.broadcast_to(sees, attention.max_logit.shape)
        return float(attention.max_logit[sees].max()) if sees.any() else None
