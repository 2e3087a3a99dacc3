"""Gradient norm far above what it was."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from tracksided.alerts.finding import Finding
from tracksided.convergence.robust import logarithms, median, spread
from tracksided.observations import Observation

ADVICE = (
    "Lower the learning rate or warm up longer, and clip gradients "
    "(torch.nn.utils.clip_grad_norm_). If it was one step, look at its batch."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class GradientExplosion:
    """The norm before clipping, or its peak since the sample before, is far above its median.

    With m the median of the norms and s the spread of their logarithms, the limit is
    m * max(warn_ratio, exp(sigmas * s)): a training whose norm swings by nature gets a wider one.
    Critical above critical_ratio / warn_ratio times that, or where burst_count of burst_steps
    samples lie above it.
    """

    name: ClassVar[str] = "gradient_explosion"

    enabled: bool = True
    warn_ratio: float = 5.0
    critical_ratio: float = 10.0
    sigmas: float = 5.0
    """Of the logarithm, that the limit is away from the median at least."""

    median_steps: int = 256
    min_steps: int = 20
    """Samples before which nothing is said."""

    burst_steps: int = 10
    burst_count: int = 3

    def check(self, now: Observation, before: Sequence[Observation]) -> Finding | None:
        """Compare in logarithms: neither huge nor tiny norms overflow there."""
        peaks = logarithms((now.gradient_norm, now.norm_peak))
        past = logarithms(entry.gradient_norm for entry in before[-self.median_steps :])
        if not peaks or len(past) < self.min_steps:
            return None
        middle = median(past)
        limit = middle + max(math.log(self.warn_ratio), self.sigmas * spread(past))
        peak = max(peaks)
        if peak <= limit:
            return None
        latest = logarithms([now.gradient_norm])
        recent = (*past[len(past) - self.burst_steps + len(latest) :], *latest)
        is_burst = sum(norm > limit for norm in recent) >= self.burst_count
        is_far = peak > limit + math.log(self.critical_ratio / self.warn_ratio)
        return Finding(
            severity="critical" if is_burst or is_far else "warning",
            value=_exp(peak),
            threshold=_exp(limit),
            message=(
                f"gradient norm {_exp(peak):.3g} is {_exp(peak - middle):.3g} times its median "
                f"of {_exp(middle):.3g}"
            ),
            advice=ADVICE,
        )


def _exp(logarithm: float) -> float:
    try:
        return math.exp(logarithm)
    except OverflowError:
        return math.inf
