"""Attention logits that grow without bound."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from tracksided.alerts.attention_series import series
from tracksided.alerts.finding import Finding
from tracksided.convergence.robust import median
from tracksided.observations import AttentionObservation, Observation

ADVICE = (
    "Queries and keys grow. Normalise them (QK norm), cap the logits, add weight decay to their "
    "projections, or lower the learning rate; in half precision logits soon overflow."
)
UNIT = 1.0  # a logit below it changes weights by less than e: growth is counted from there on


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionLogitGrowth:
    """A layer's largest logit is high, and several times what it was.

    For persist_steps samples in a row it lies above max_logit and above growth times the layer's
    own level, the median of the lower half of what is remembered. Critical above critical_logit.

    Sources: Dehghani et al. 2023, arXiv:2302.05442, for logits as a cause of divergence; Kimi
    Team 2025, arXiv:2507.20534, for a limit of 100.
    """

    name: ClassVar[str] = "attention_logit_growth"

    enabled: bool = True
    max_logit: float = 100.0
    growth: float = 3.0
    critical_logit: float = 1000.0
    persist_steps: int = 3
    min_steps: int = 3
    """Samples that a layer's own level takes."""

    def check(self, now: Observation, before: Sequence[Observation]) -> Finding | None:
        """Tell of the layer whose logit is the largest."""
        suspects = [call for call in now.attention if _known_logit(call) > self.max_logit]
        for call in sorted(suspects, key=_known_logit, reverse=True):
            values = series((*before, now), call.place, _logit)
            past, recent = values[: -self.persist_steps], values[-self.persist_steps :]
            if len(past) < self.min_steps:
                continue
            level = median(sorted(past)[: (len(past) + 1) // 2])
            limit = max(self.max_logit, self.growth * max(level, UNIT))
            if min(recent) > limit:
                return Finding(
                    severity="critical" if min(recent) > self.critical_logit else "warning",
                    value=recent[-1],
                    threshold=limit,
                    message=(
                        f"largest attention logit of {call.title} has grown from {level:.3g} "
                        f"to {recent[-1]:.3g}"
                    ),
                    advice=ADVICE,
                )
        return None


def _logit(call: AttentionObservation) -> float | None:
    return call.max_logit


def _known_logit(call: AttentionObservation) -> float:
    return 0.0 if call.max_logit is None else call.max_logit
