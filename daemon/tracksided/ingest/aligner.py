"""Brings the local ranks of a step together: decides when a step is complete enough to go on."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Aligned(Generic[Item]):
    """One step with what each local rank delivered for it; at least one rank."""

    step: int
    by_rank: Mapping[int, Item]


class Aligner(Generic[Item]):
    """Collects deliveries of the ranks of one generation of a run.

    A generation is one start of a training job: within it each rank's steps only grow. Steps
    are released in ascending order, each exactly once. A step waits for every local rank that
    can still deliver it. A rank cannot any more once it has delivered a later step or left;
    one that never appeared is waited for ``join_grace_s``, one that lags ``max_lag_s``.
    Time is any monotonic number of seconds, given by the caller.
    """

    def __init__(
        self, *, num_ranks: int, now: float, join_grace_s: float, max_lag_s: float
    ) -> None:
        self._num_ranks = num_ranks
        self._join_deadline = now + join_grace_s
        self._max_lag_s = max_lag_s
        self._newest: dict[int, int] = {}
        self._left: set[int] = set()
        self._pending: dict[int, dict[int, Item]] = {}
        self._first_seen: dict[int, float] = {}
        self._released = 0  # steps count from 1

    def join(self, rank: int) -> None:
        """Note that a rank has appeared; it may not have delivered anything yet."""
        self._newest.setdefault(rank, 0)

    def resume_after(self, step: int) -> None:
        """Note that steps up to this one were released before, by a daemon that is gone."""
        self._released = max(self._released, step)

    def leave(self, rank: int) -> None:
        """Note that a rank will deliver nothing more."""
        self.join(rank)
        self._left.add(rank)

    def deliver(self, rank: int, step: int, item: Item, now: float) -> bool:
        """Take one rank's step; False if that step is over and the item comes too late."""
        self.join(rank)
        self._newest[rank] = max(self._newest[rank], step)
        if step <= self._released or rank in self._pending.get(step, {}):
            return False
        self._pending.setdefault(step, {})[rank] = item
        self._first_seen.setdefault(step, now)
        return True

    def release(self, now: float) -> list[Aligned[Item]]:
        """Return the steps that wait for nobody any more, in ascending order."""
        released: list[Aligned[Item]] = []
        while self._pending:
            step = min(self._pending)
            if not self._is_complete(step, now):
                break
            self._first_seen.pop(step)
            by_rank = self._pending.pop(step)
            released.append(Aligned(step, dict(sorted(by_rank.items()))))
            self._released = step
        return released

    def is_over(self, now: float) -> bool:
        """Tell whether nothing is pending and no rank can deliver anything more."""
        everyone_left = self._left.issuperset(self._newest)
        return not self._pending and everyone_left and self._all_joined(now)

    def _all_joined(self, now: float) -> bool:
        return len(self._newest) >= self._num_ranks or now >= self._join_deadline

    def _is_complete(self, step: int, now: float) -> bool:
        if now - self._first_seen[step] >= self._max_lag_s:
            return True
        return self._all_joined(now) and all(
            newest >= step or rank in self._left for rank, newest in self._newest.items()
        )
