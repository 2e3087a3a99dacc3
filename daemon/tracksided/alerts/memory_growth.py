"""Memory of a rank that grows and grows."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from tracksided.alerts.finding import Finding
from tracksided.convergence.robust import median
from tracksided.monitors.reading import HostReading, ProcessReading

ADVICE = (
    "Something is kept from step to step. Look for losses or outputs collected without .item() or "
    ".detach(), caches without a bound, and data loader workers that hold on to samples."
)
NUM_BLOCKS = 6  # of the window: growth must show in each of them
MIB = 1 << 20
KINDS: tuple[tuple[str, Callable[[ProcessReading], int | None]], ...] = (
    ("memory", lambda process: process.rss_bytes),
    ("GPU memory", lambda process: process.gpu_memory_bytes),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryGrowth:
    """A rank's memory grew from block to block of the window, and does not slow down.

    The window is cut into six blocks. Their medians rise each time; from the first to the last by
    min_growth and by min_growth_mib; and the last two rises are on average at least half of the
    mean one. Caches fill up, arenas settle: their growth slows down. A leak's does not.
    """

    name: ClassVar[str] = "memory_growth"

    enabled: bool = True
    window_readings: int = 90
    min_growth: float = 0.05
    min_growth_mib: float = 256.0

    def check(self, now: HostReading, before: Sequence[HostReading]) -> Finding | None:
        """Look at the memory of every rank, on the host and on GPUs."""
        if len(before) < self.window_readings - 1:
            return None
        recent = (*before[len(before) - self.window_readings + 1 :], now)
        for pid, process in now.processes.items():
            for what, number in KINDS:
                values = [
                    number(reading.processes[pid]) for reading in recent if pid in reading.processes
                ]
                known = [value for value in values if value is not None]
                if len(known) == len(recent):
                    finding = self._judge(what, process.rank, known)
                    if finding is not None:
                        return finding
        return None

    def _judge(self, what: str, rank: int, values: Sequence[int]) -> Finding | None:
        size = len(values) // NUM_BLOCKS
        if size == 0:
            return None
        start = len(values) - NUM_BLOCKS * size
        levels = [
            median(values[start + index * size : start + (index + 1) * size])
            for index in range(NUM_BLOCKS)
        ]
        rises = [after - earlier for earlier, after in itertools.pairwise(levels)]
        growth = levels[-1] - levels[0]
        limit = max(self.min_growth * levels[0], self.min_growth_mib * MIB)
        is_steady = min(rises) > 0 and (rises[-2] + rises[-1]) / 2 >= growth / len(rises) / 2
        if growth < limit or not is_steady:
            return None
        return Finding(
            severity="warning",
            value=float(growth),
            threshold=limit,
            message=(
                f"{what} of rank {rank} has grown steadily from {levels[0] / MIB:.0f} to "
                f"{levels[-1] / MIB:.0f} MiB"
            ),
            advice=ADVICE,
            rank=rank,
        )
