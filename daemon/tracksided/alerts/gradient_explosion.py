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
    burst_count of burst_steps samples must lie above it, or one lone_ratio / warn_ratio times:
    single batches, and two close to each other, do lie above in healthy trainings. Critical where
    the newest lies critical_ratio / warn_ratio times above.

    Source: Pascanu et al. 2012, arXiv:1211.5063; the factors are measured, see docs/alerts.md.
    """

    name: ClassVar[str] = "gradient_explosion"

    enabled: bool = True
    warn_ratio: float = 5.0
    critical_ratio: float = 10.0
    lone_ratio: float = 30.0
    """Of the median, for one sample by itself: batches of a healthy LSTM reached 19."""

    sigmas: float = 5.0
    """Of the logarithm, that the limit is away from the median at least."""

    median_steps: int = 256
    min_steps: int = 20
    """Samples before which nothing is said."""

    burst_steps: int = 10
    burst_count: int = 3

    def check(self, now: Observation, before: Sequence[Observation]) -> Finding | None:
        """Compare in logarithms: neither huge nor tiny norms overflow there."""
        peak = _peak(now)
        past = logarithms(entry.gradient_norm for entry in before[-self.median_steps :])
        if peak is None or len(past) < self.min_steps:
            return None
        middle = median(past)
        limit = middle + max(math.log(self.warn_ratio), self.sigmas * spread(past))
        if peak <= limit:
            return None
        recent = map(_peak, before[max(len(before) - self.burst_steps + 1, 0) :])
        count = 1 + sum(other is not None and other > limit for other in recent)
        is_lone = peak > limit + math.log(self.lone_ratio / self.warn_ratio)
        if count < self.burst_count and not is_lone:
            return None
        is_far = peak > limit + math.log(self.critical_ratio / self.warn_ratio)
        return Finding(
            severity="critical" if is_far else "warning",
            value=_exp(peak),
            threshold=_exp(limit),
            message=(
                f"gradient norm {_exp(peak):.3g} is {_exp(peak - middle):.3g} times its median "
                f"of {_exp(middle):.3g}"
            ),
            advice=ADVICE,
        )


def _peak(entry: Observation) -> float | None:
    """Return the logarithm of the largest norm that the sample tells of."""
    return max(logarithms((entry.gradient_norm, entry.norm_peak)), default=None)


def _exp(logarithm: float) -> float:
    try:
        return math.exp(logarithm)
    except OverflowError:
        return math.inf
