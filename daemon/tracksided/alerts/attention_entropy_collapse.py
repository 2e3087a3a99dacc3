"""Attention that has narrowed to a single key."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from tracksided.alerts.attention_series import series
from tracksided.alerts.finding import Finding
from tracksided.convergence.robust import median
from tracksided.observations import AttentionObservation, Observation

ADVICE = (
    "Attention has become nearly one-hot, which often comes before divergence, although the loss "
    "may still fall. Lower the learning rate or warm up longer; normalise queries and keys."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionEntropyCollapse:
    """A layer's entropy, as a share of the largest possible one, is low and was not.

    For persist_steps samples in a row it lies below floor, and below drop times the layer's own
    level, which is the median of the higher half of what is remembered: a layer that is sharp by
    design never was higher.

    Source: Zhai et al. 2023, arXiv:2303.06296, for entropy collapse as a sign of instability.
    """

    name: ClassVar[str] = "attention_entropy_collapse"

    enabled: bool = True
    floor: float = 0.1
    drop: float = 0.5
    persist_steps: int = 3
    min_steps: int = 3
    """Samples that a layer's own level takes."""

    def check(self, now: Observation, before: Sequence[Observation]) -> Finding | None:
        """Tell of the layer that lies lowest."""
        suspects = sorted(
            (call for call in now.attention if _known_entropy(call) < self.floor),
            key=_known_entropy,
        )
        for call in suspects:
            values = series((*before, now), call.place, _entropy)
            past, recent = values[: -self.persist_steps], values[-self.persist_steps :]
            if len(past) < self.min_steps:
                continue
            level = median(sorted(past)[len(past) // 2 :])
            limit = min(self.floor, self.drop * level)
            if max(recent) < limit:
                return Finding(
                    severity="warning",
                    value=recent[-1],
                    threshold=limit,
                    message=(
                        f"attention entropy of {call.title} has collapsed to "
                        f"{100 * recent[-1]:.2g} % of the largest possible one; it was at "
                        f"{100 * level:.2g} %"
                    ),
                    advice=ADVICE,
                )
        return None


def _entropy(call: AttentionObservation) -> float | None:
    return call.normalized_entropy


def _known_entropy(call: AttentionObservation) -> float:
    return math.inf if call.normalized_entropy is None else call.normalized_entropy
