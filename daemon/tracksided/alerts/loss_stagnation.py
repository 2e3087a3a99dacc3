"""Loss that does not fall any more."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from tracksided.alerts.finding import Finding
from tracksided.convergence.robust import finite, median, spread
from tracksided.observations import Observation

ADVICE = (
    "If the loss is as low as you hoped, stop here. Else look at the learning rate (its schedule "
    "may have ended, or it is too high to settle), at frozen parameters, and at the data."
)
# The standard error of a median of n normal samples is sqrt(pi / 2) * sigma / sqrt(n).
MEDIAN_ERROR = math.sqrt(math.pi / 2)

NUM_BLOCKS = 10  # of each half: enough to know their spread, long enough to forget each other


@dataclass(frozen=True, slots=True, kw_only=True)
class LossStagnation:
    """The loss falls by less than min_improvement for each doubling of the steps.

    The window is cut into halves. With d the fall from the median of the first to that of the
    second, and e its standard error, d + sigmas * e must lie below min_improvement of the first
    median, times log2 of the ratio of their middle steps. Losses fall like a power of the steps:
    late in a run a window holds little of a doubling, and what the noise hides is not judged.
    e comes from the medians of blocks, because losses of neighbouring steps may be alike.
    """

    name: ClassVar[str] = "loss_stagnation"

    enabled: bool = True
    window_steps: int = 400
    min_improvement: float = 0.02
    sigmas: float = 4.0

    def check(self, now: Observation, before: Sequence[Observation]) -> Finding | None:
        """Compare two halves of a full window."""
        if now.loss is None or len(before) < self.window_steps - 1:
            return None
        recent = (*before[len(before) - self.window_steps + 1 :], now)
        if recent[0].step < 1:
            return None
        half = len(recent) // 2
        first = finite(entry.loss for entry in recent[:half])
        second = finite(entry.loss for entry in recent[half:])
        if min(len(first), len(second)) < half:
            return None
        doublings = math.log2(recent[-half // 2].step / recent[half // 2].step)
        wanted = self.min_improvement * doublings * abs(median(first))
        fall = median(first) - median(second)
        error = math.hypot(_error(first), _error(second))
        if fall + self.sigmas * error >= wanted:
            return None
        return Finding(
            severity="warning",
            value=fall,
            threshold=wanted,
            message=(
                f"loss has hardly fallen in {len(recent)} samples: median {median(first):.4g}, "
                f"then {median(second):.4g}"
            ),
            advice=ADVICE,
        )


def _error(losses: Sequence[float]) -> float:
    """Return the standard error of the median."""
    size = max(len(losses) // NUM_BLOCKS, 1)
    medians = [median(losses[end - size : end]) for end in range(size, len(losses) + 1, size)]
    return MEDIAN_ERROR * spread(medians) / math.sqrt(len(medians))
