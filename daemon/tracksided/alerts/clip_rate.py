"""Gradients that are clipped nearly always."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from tracksided.alerts.finding import Finding
from tracksided.convergence.robust import finite, median
from tracksided.observations import Observation

ADVICE = (
    "Clipping has become part of the learning rate. Raise max_norm to what the norm usually is, "
    "or lower the learning rate until the norm comes down."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipRate:
    """Over window_steps samples, max_rate of all steps were clipped, to a fraction of their size.

    A norm that lies just above max_norm loses little: the median of norm / max_norm must be at
    least min_excess, where both are known.
    """

    name: ClassVar[str] = "clip_rate"

    enabled: bool = True
    window_steps: int = 100
    max_rate: float = 0.9
    min_excess: float = 3.0

    def check(self, now: Observation, before: Sequence[Observation]) -> Finding | None:
        """Average over a full window, or say nothing."""
        recent = (*before[len(before) - self.window_steps + 1 :], now)
        rates = finite(entry.clip_rate for entry in recent)
        if now.clip_rate is None or len(rates) < self.window_steps:
            return None
        rate = sum(rates) / len(rates)
        excesses = [
            entry.gradient_norm / entry.max_norm
            for entry in recent
            if entry.gradient_norm is not None and entry.max_norm is not None and entry.max_norm > 0
        ]
        known = finite(excesses)
        if rate < self.max_rate or (known and median(known) < self.min_excess):
            return None
        size = f", to 1/{median(known):.3g} of their size" if known else ""
        return Finding(
            severity="warning",
            value=rate,
            threshold=self.max_rate,
            message=f"{100 * rate:.0f} % of the steps were clipped of late{size}",
            advice=ADVICE,
        )
