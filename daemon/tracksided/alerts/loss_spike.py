"""Loss far above what it was a moment ago."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from tracksided.alerts.finding import Finding
from tracksided.convergence.robust import finite, logarithms, median, spread
from tracksided.observations import Observation

ADVICE = (
    "Look at the batch of this step and at the gradient norm around it. If the loss does not come "
    "back, go back to a checkpoint from before and skip the batch, or lower the learning rate."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LossSpike:
    """The loss is above m + sigmas * s and above m + min_rise * |m|, of the newest samples.

    m is their median, s their spread. Where all are positive it must also be above
    m * exp(log_sigmas * t), with t the spread of their logarithms: losses that scatter over
    orders of magnitude are skewed. Critical above critical_ratio times the largest loss known
    (the rule of Megatron-LM for a rerun).
    """

    name: ClassVar[str] = "loss_spike"

    enabled: bool = True
    window_steps: int = 64
    min_steps: int = 20
    """Samples before which nothing is said."""

    sigmas: float = 8.0
    log_sigmas: float = 6.0
    min_rise: float = 0.1
    critical_ratio: float = 10.0

    def check(self, now: Observation, before: Sequence[Observation]) -> Finding | None:
        """Compare with the window; with all that is remembered only for the severity."""
        loss = now.loss
        window = finite(entry.loss for entry in before[-self.window_steps :])
        if loss is None or not math.isfinite(loss) or len(window) < self.min_steps:
            return None
        middle = median(window)
        limit = middle + max(self.sigmas * spread(window), self.min_rise * abs(middle))
        logs = logarithms(window)
        if loss <= limit or limit == 0 or not math.isfinite(limit):
            return None
        if len(logs) == len(window) and (
            math.log(loss) <= median(logs) + self.log_sigmas * spread(logs)
        ):
            return None
        largest = max(finite(entry.loss for entry in before))
        is_far = largest > 0 and loss / self.critical_ratio > largest
        return Finding(
            severity="critical" if is_far else "warning",
            value=loss,
            threshold=limit,
            message=f"loss {loss:.4g} is far above its median of {middle:.4g}",
            advice=ADVICE,
        )
