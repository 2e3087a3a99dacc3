"""A training that makes no step any more."""

from dataclasses import dataclass
from typing import ClassVar

from tracksided.alerts.finding import Finding

ADVICE = (
    "Look at what the processes wait for: `py-spy dump --pid PID` shows their stacks. Most often "
    "it is a data loader, a collective that one rank never reached, or a file server. If it "
    "evaluates or saves, wait: a pause as long as one that is known is no stall, and "
    "min_seconds of [alerts.stalled_trainer] can be raised."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Liveness:
    """What is known of a live trainer's steps."""

    last_step: int
    """Newest sampled step that has arrived; 0 where there is none."""

    silent_s: float
    """Since it arrived."""

    interval_s: float | None
    """Median time between two sampled steps; None where there are too few."""

    longest_s: float = 0.0
    """Longest time between two of those that are remembered; 0 where there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StalledTrainer:
    """A live trainer has sent no step for intervals medians of the time between two samples.

    Nor for pauses times the longest such time: an evaluation that took five minutes does so again.
    """

    name: ClassVar[str] = "stalled_trainer"

    enabled: bool = True
    intervals: float = 10.0
    min_seconds: float = 60.0
    """Silence that is never a stall: evaluation, a checkpoint."""

    pauses: float = 1.5
    """Times the longest pause after which the training went on."""

    def check(self, liveness: Liveness) -> Finding | None:
        """Compare the silence with what is usual."""
        if liveness.interval_s is None:
            return None
        limit = max(
            self.intervals * liveness.interval_s,
            self.min_seconds,
            self.pauses * liveness.longest_s,
        )
        if liveness.silent_s <= limit:
            return None
        return Finding(
            severity="critical",
            value=liveness.silent_s,
            threshold=limit,
            message=(
                f"no step for {liveness.silent_s:.0f} s after step {liveness.last_step}; samples "
                f"usually come every {liveness.interval_s:.3g} s"
            ),
            advice=ADVICE,
        )
