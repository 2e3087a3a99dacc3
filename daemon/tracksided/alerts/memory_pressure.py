"""A machine, or a rank's cgroup, that runs out of memory."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from tracksided.alerts.finding import Finding
from tracksided.monitors.reading import HostReading

ADVICE = (
    "The kernel may soon kill a process of the training. Use fewer data loader workers or a "
    "smaller prefetch, end other programs, or raise the limit of the job."
)
CRITICAL_LEVEL = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPressure:
    """The pressure level has been at least min_level for persist_readings readings.

    Critical at level 3. `tracksided.monitors.pressure` says what the levels mean.
    """

    name: ClassVar[str] = "memory_pressure"

    enabled: bool = True
    min_level: int = 2
    persist_readings: int = 2

    def check(self, now: HostReading, before: Sequence[HostReading]) -> Finding | None:
        """Take the mildest of the newest readings."""
        recent = (*before[len(before) - self.persist_readings + 1 :], now)
        levels = [reading.memory_pressure_level for reading in recent[-self.persist_readings :]]
        known = [level for level in levels if level is not None]
        if len(known) < self.persist_readings or min(known) < self.min_level:
            return None
        used = (
            "" if now.memory_percent is None else f"; {now.memory_percent:.0f} % of it are in use"
        )
        return Finding(
            severity="critical" if min(known) >= CRITICAL_LEVEL else "warning",
            value=float(known[-1]),
            threshold=float(self.min_level),
            message=f"memory pressure is at level {known[-1]} of 3{used}",
            advice=ADVICE,
        )
