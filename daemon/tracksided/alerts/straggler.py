"""A rank that is slower than the others."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from tracksided.alerts.finding import Finding
from tracksided.convergence.ranks import STRAGGLER_SCORE, straggler_scores
from tracksided.convergence.robust import median
from tracksided.observations import Observation

ADVICE = (
    "The others wait for this rank. Look at its GPU (temperature, throttling, another process), "
    "its share of the data, its data loader, and its CPU and network."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Straggler:
    """The same rank scores below min_score for persist_steps samples in a row.

    Its score is the median step time of the other ranks over its own.

    Source: the default of NVIDIA Resiliency Extension's straggler detection, 0.75.
    """

    name: ClassVar[str] = "straggler"

    enabled: bool = True
    min_score: float = STRAGGLER_SCORE
    persist_steps: int = 5

    def check(self, now: Observation, before: Sequence[Observation]) -> Finding | None:
        """Tell of the rank that has the lowest score now."""
        if len(now.ranks) < 2 or len(before) < self.persist_steps - 1:  # noqa: PLR2004 - another one
            return None
        recent = [
            _seconds(entry) for entry in (*before[len(before) - self.persist_steps + 1 :], now)
        ]
        scores = [straggler_scores(seconds) for seconds in recent]
        if not scores[-1]:
            return None
        worst = min(scores[-1], key=lambda rank: scores[-1][rank])
        if any(entry.get(worst, 1.0) >= self.min_score for entry in scores):
            return None
        others = median([value for rank, value in recent[-1].items() if rank != worst])
        return Finding(
            severity="warning",
            value=scores[-1][worst],
            threshold=self.min_score,
            message=(
                f"rank {worst} takes {recent[-1][worst]:.3g} s a step, the others {others:.3g} s"
            ),
            advice=ADVICE,
            rank=worst,
        )


def _seconds(entry: Observation) -> dict[int, float]:
    return {
        rank.rank: rank.step_seconds
        for rank in entry.ranks
        if rank.step_seconds is not None and rank.step_seconds > 0
    }
