"""How near the machine, or a rank's cgroup, is to running out of memory: a level from 0 to 3.

| level | word | memory in use, of host or cgroup | or PSI |
|---|---|---|---|
| 0 | none | below 80 % | some below 10 % |
| 1 | some | from 80 % | some from 10 % |
| 2 | high | from 90 % | full from 10 % |
| 3 | critical | from 95 % | full from 40 % |

PSI (pressure stall information) is the share of the last 10 s in which some task, or all of
them, waited for memory: Weiner 2018, Linux ``Documentation/accounting/psi.rst``. 10 % of ``some``
is where systemd tells services that memory is short (``DefaultMemoryPressureThresholdSec=``);
systemd-oomd begins to kill at 60 % of ``full`` for 30 s (``DefaultMemoryPressureLimit=``): 40 % is
the last moment to act.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from tracksided.monitors.cgroups import CgroupMemory, limited_cgroups
from tracksided.monitors.monitor import Watched
from tracksided.monitors.reading import HostReading

USED_PERCENT = (80.0, 90.0, 95.0)  # from which the levels 1, 2 and 3 begin
SOME_PERCENT = 10.0  # level 1
FULL_PERCENT = (10.0, 40.0)  # levels 2 and 3


@dataclass(frozen=True, slots=True)
class Stall:
    """One PSI file's averages over 10 s, 0 to 100."""

    some_percent: float
    full_percent: float


class Pressure:
    """Reads PSI files and the limits of the ranks' cgroups; the host's use must be known before."""

    name = "pressure"

    def __init__(self, proc: Path = Path("/proc")) -> None:
        self._proc = proc

    def read(self, watched: Watched, reading: HostReading) -> HostReading:
        """Add the worst of the host and of the cgroups that limit a rank."""
        total = psutil.virtual_memory().total
        cgroups = [
            entry
            for entry in limited_cgroups(tuple(watched.ranks), self._proc)
            if entry.limit_bytes < total  # else the host is what limits
        ]
        files = (self._proc / "pressure" / "memory", *(entry.pressure_file for entry in cgroups))
        stalls = [stall for stall in map(read_stall, files) if stall is not None]
        some = max((stall.some_percent for stall in stalls), default=None)
        full = max((stall.full_percent for stall in stalls), default=None)
        nearest = max(cgroups, key=_used_percent, default=None)
        used = [reading.memory_percent, None if nearest is None else _used_percent(nearest)]
        return replace(
            reading,
            memory_pressure_level=level(
                max((value for value in used if value is not None), default=None), some, full
            ),
            pressure_some_avg10=some,
            pressure_full_avg10=full,
            cgroup_memory_bytes=None if nearest is None else nearest.used_bytes,
            cgroup_memory_limit_bytes=None if nearest is None else nearest.limit_bytes,
        )


def level(
    used_percent: float | None, some_percent: float | None, full_percent: float | None
) -> int | None:
    """Return the level that the table of this module gives; None where nothing is known."""
    if used_percent is None and some_percent is None and full_percent is None:
        return None
    used = _num_reached(used_percent, USED_PERCENT)
    some = _num_reached(some_percent, (SOME_PERCENT,))
    full = _num_reached(full_percent, FULL_PERCENT)
    return max(used, some, full + 1 if full else 0)


def read_stall(path: Path) -> Stall | None:
    """Read a PSI file; None where the kernel, or the cgroup, has none."""
    try:
        lines = path.read_text(encoding="ascii").splitlines()
        shares = {
            kind: float(averages["avg10"])
            for kind, averages in (_line(line) for line in lines if line)
        }
        return Stall(shares["some"], shares["full"])
    except (OSError, ValueError, KeyError):
        return None


def _line(line: str) -> tuple[str, dict[str, str]]:
    """Split ``some avg10=0.12 avg60=0.05 avg300=0.01 total=4711``."""
    kind, *fields = line.split()
    return kind, dict(field.split("=", 1) for field in fields)


def _num_reached(value: float | None, thresholds: Iterable[float]) -> int:
    return 0 if value is None else sum(value >= threshold for threshold in thresholds)


def _used_percent(cgroup: CgroupMemory) -> float:
    return 100.0 * cgroup.used_bytes / max(cgroup.limit_bytes, 1)
