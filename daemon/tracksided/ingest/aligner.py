"""Brings the local ranks of a step together: decides when a step is complete enough to go on."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

Item = TypeVar("Item")

_Position = tuple[int, int]  # lap, step
_START: _Position = (0, 0)  # steps count from 1


@dataclass(frozen=True, slots=True)
class Aligned(Generic[Item]):
    """One step with what each local rank delivered for it; at least one rank."""

    step: int
    by_rank: Mapping[int, Item]


class Aligner(Generic[Item]):
    """Collects deliveries of the ranks of one generation of a run.

    A generation is one start of a training job. Within it each rank's steps grow; where they do
    not, the training went back to an earlier state and a new lap begins. A step is released once
    per lap, laps one after the other, steps ascending within one. It waits for every local rank
    that can still deliver it. A rank cannot any more once it is beyond it or has left; one that
    never appeared is waited for ``join_grace_s``. One that lags is waited for ``max_lag_s``
    once, and then no more until it has caught up.
    Time is any monotonic number of seconds, given by the caller.
    """

    def __init__(
        self, *, num_ranks: int, now: float, join_grace_s: float, max_lag_s: float
    ) -> None:
        self._num_ranks = num_ranks
        self._join_deadline = now + join_grace_s
        self._max_lag_s = max_lag_s
        self._newest: dict[int, _Position] = {}
        self._left: set[int] = set()
        self._lagging: set[int] = set()
        self._pending: dict[_Position, dict[int, Item]] = {}
        self._first_seen: dict[_Position, float] = {}
        self._released = _START

    def join(self, rank: int) -> None:
        """Note that a rank has appeared; it may not have delivered anything yet."""
        self._newest.setdefault(rank, _START)

    def resume(self, rank: int, step: int, released: int) -> None:
        """Note what a daemon that is gone has written; before the rank delivers anything.

        Args:
            rank: that joined.
            step: the last one written of this rank, 0 for none.
            released: the last one written of any rank.
        """
        lap = self._released[0]
        self._newest[rank] = (lap, step)
        self._released = max(self._released, (lap, released))

    def leave(self, rank: int) -> None:
        """Note that a rank will deliver nothing more."""
        self.join(rank)
        self._left.add(rank)

    def deliver(self, rank: int, step: int, item: Item, now: float) -> bool:
        """Take one rank's step; False if that step is over and the item comes too late."""
        self.join(rank)
        lap, newest = self._newest[rank]
        position = (lap + (step <= newest), step)
        self._newest[rank] = position
        if position <= self._released:
            return False
        self._lagging.discard(rank)
        self._pending.setdefault(position, {})[rank] = item
        self._first_seen.setdefault(position, now)
        return True

    def release(self, now: float) -> list[Aligned[Item]]:
        """Return the steps that wait for nobody any more, in order."""
        released: list[Aligned[Item]] = []
        while self._pending:
            position = min(self._pending)
            if not self._is_complete(position, now):
                break
            self._first_seen.pop(position)
            by_rank = self._pending.pop(position)
            released.append(Aligned(position[1], dict(sorted(by_rank.items()))))
            self._released = position
        return released

    def is_over(self, now: float) -> bool:
        """Tell whether nothing is pending and no rank can deliver anything more."""
        everyone_left = self._left.issuperset(self._newest)
        return not self._pending and everyone_left and self._all_joined(now)

    def _all_joined(self, now: float) -> bool:
        return len(self._newest) >= self._num_ranks or now >= self._join_deadline

    def _is_complete(self, position: _Position, now: float) -> bool:
        missing = {
            rank
            for rank, newest in self._newest.items()
            if newest < position and rank not in self._left
        }
        if now - self._first_seen[position] >= self._max_lag_s:
            self._lagging |= missing
            return True
        return self._all_joined(now) and missing <= self._lagging
