"""The processes of the ranks, each with its children.

The whole process table is not walked: a big node has thousands of processes, and a rank's children
stand in ``/proc/<pid>/task/*/children``. Kernels built without these files show the rank alone.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from tracksided.monitors.monitor import Watched
from tracksided.monitors.reading import HostReading, ProcessReading

MAX_MEMBERS = 1024  # of one rank: who forks without end must not keep us busy, too
_PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class _Member:
    process: psutil.Process
    rss_bytes: int
    cpu_percent: float | None
    """Since the reading before; None for a process that was not there then."""


class Processes:
    """Adds up memory and CPU time of every rank's process tree."""

    name = "processes"

    def __init__(self) -> None:
        self._known: dict[int, psutil.Process] = {}

    def read(self, watched: Watched, reading: HostReading) -> HostReading:
        """Add every rank whose process is there."""
        known: dict[int, psutil.Process] = {}
        processes: dict[int, ProcessReading] = {}
        for pid, rank in watched.ranks.items():
            members = [self._member(member) for member in _tree(pid)]
            root, *children = members
            if root is None:
                continue
            tree = [root, *(child for child in children if child is not None)]
            known |= {member.process.pid: member.process for member in tree}
            processes[pid] = ProcessReading(
                rank=rank,
                rss_bytes=sum(member.rss_bytes for member in tree),
                cpu_percent=None
                if root.cpu_percent is None
                else sum(member.cpu_percent or 0.0 for member in tree),
            )
        self._known = known
        return replace(reading, processes=processes)

    def _member(self, pid: int) -> _Member | None:
        """Look at one process; None where it is gone."""
        try:
            process = self._known.get(pid)
            is_new = process is None or not process.is_running()  # its id may be another's now
            if process is None or is_new:
                process = psutil.Process(pid)
            busy = process.cpu_percent()  # of the time since the call before on this object
            rss_bytes = process.memory_info().rss
        except psutil.Error:
            return None
        return _Member(process, rss_bytes, None if is_new else busy)


def _tree(root: int) -> list[int]:
    """Return a process and its descendants, the process first."""
    found = [root]
    for pid in found:  # grows while it is walked
        found += _children(pid)
        if len(found) >= MAX_MEMBERS:
            break
    return found[:MAX_MEMBERS]


def _children(pid: int) -> Iterator[int]:
    for path in (_PROC / str(pid) / "task").glob("*/children"):
        try:
            yield from map(int, path.read_text(encoding="ascii").split())
        except OSError:
            continue  # the thread has ended
