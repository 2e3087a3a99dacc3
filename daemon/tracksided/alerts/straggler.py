"""A rank that is slower than the others."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from tracksided.alerts.finding import Finding
from tracksided.convergence.ranks import straggler_scores
from tracksided.observations import Observation

ADVICE = (
    "The others wait for this rank. Look at its GPU (temperature, throttling, another process), "
    "its share of the data, its data loader, and its CPU and network."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Straggler:
    """The same rank scores below min_score for persist_steps samples in a row.

    Its score is the median time of the other ranks over its own; it must be slower by
    min_seconds, too. Compared is what a rank does by itself, data and forward, where that is
    known; else the whole step, which is the same for ranks that wait for each other.

    Source: the default of NVIDIA Resiliency Extension's straggler detection, 0.75.
    """

    name: ClassVar[str] = "straggler"

    enabled: bool = True
    min_score: float = 0.75
    min_seconds: float = 0.05
    """The first rank captures attention on top: some milliseconds in sampled steps,
    and more where cores are short."""

    persist_steps: int = 10

    def check(self, now: Observation, before: Sequence[Observation]) -> Finding | None:
        """Tell of the rank that has the lowest score now."""
        if len(now.ranks) < 2 or len(before) < self.persist_steps - 1:  # noqa: PLR2004 - another one
            return None
        recent = (*before[len(before) - self.persist_steps + 1 :], now)
        seconds = [_own_seconds(entry) for entry in recent]
        scores = straggler_scores(seconds[-1])
        if not scores:
            return None
        worst = min(scores, key=lambda rank: scores[rank])
        if not all(self._is_slow(worst, entry) for entry in seconds):
            return None
        return Finding(
            severity="warning",
            value=scores[worst],
            threshold=self.min_score,
            message=(
                f"rank {worst} takes {seconds[-1][worst]:.3g} s for its own part of a step, "
                f"the others {scores[worst] * seconds[-1][worst]:.3g} s"
            ),
            advice=ADVICE,
            rank=worst,
        )

    def _is_slow(self, rank: int, seconds: Mapping[int, float]) -> bool:
        score = straggler_scores(seconds).get(rank)
        if score is None:
            return False
        return score < self.min_score and (1 - score) * seconds[rank] >= self.min_seconds


def _own_seconds(entry: Observation) -> dict[int, float]:
    local = _known({rank.rank: rank.local_seconds for rank in entry.ranks})
    if len(local) == len(entry.ranks):
        return local
    return _known({rank.rank: rank.step_seconds for rank in entry.ranks})


def _known(seconds: Mapping[int, float | None]) -> dict[int, float]:
    return {rank: value for rank, value in seconds.items() if value is not None and value > 0}
