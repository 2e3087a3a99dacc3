"""Room on the file systems that hold outputs, checkpoints and shared memory."""

import os
from dataclasses import replace
from pathlib import Path

from tracksided.monitors.monitor import Watched
from tracksided.monitors.reading import DiskReading, HostReading


class Disks:
    """Asks the file system of every watched path."""

    name = "disks"

    def read(self, watched: Watched, reading: HostReading) -> HostReading:
        """Add the room of every path, or of its nearest parent that exists."""
        found = (_room(path) for path in watched.paths)
        return replace(reading, disks=tuple(disk for disk in found if disk is not None))


def _room(path: str) -> DiskReading | None:
    for place in (Path(path), *Path(path).parents):
        try:
            found = os.statvfs(place)
        except FileNotFoundError:
            continue
        except OSError:
            return None
        return DiskReading(
            path=path,
            free_bytes=found.f_bavail * found.f_frsize,
            total_bytes=found.f_blocks * found.f_frsize,
        )
    return None
