"""Samples, and values of `Session.log`, that were lost on their way to the daemon."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from tracksided.alerts.finding import Finding
from tracksided.observations import Observation

ADVICE = (
    "Training went on, but these are missing. `trackside status` names the cause: for ring_full, "
    "raise ring_bytes or every, or give the daemon more CPU; for log_full, log fewer values, or "
    "lower every, so that records take them along sooner."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DroppedSamples:
    """Ranks have dropped min_dropped samples or logged values since the sample before."""

    name: ClassVar[str] = "dropped_samples"

    enabled: bool = True
    min_dropped: int = 1

    def check(self, now: Observation, before: Sequence[Observation]) -> Finding | None:
        """Compare with the newest sample of each rank: its count begins anew with a session."""
        lost: dict[int, int] = {}
        for rank in now.ranks:
            known = _count_before(before, rank.rank)
            lost[rank.rank] = rank.dropped - known if rank.dropped >= known else rank.dropped
        total = sum(lost.values())
        if total < self.min_dropped:
            return None
        ranks = ", ".join(str(rank) for rank, count in lost.items() if count > 0)
        return Finding(
            severity="warning",
            value=float(total),
            threshold=float(self.min_dropped),
            message=f"{total} samples or logged values were dropped before step {now.step}, "
            f"by rank {ranks}",
            advice=ADVICE,
        )


def _count_before(before: Sequence[Observation], rank: int) -> int:
    for entry in reversed(before):
        for known in entry.ranks:
            if known.rank == rank:
                return known.dropped
    return 0
