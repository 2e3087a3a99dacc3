"""CPU and memory of the whole machine."""

from dataclasses import replace

import psutil

from tracksided.monitors.monitor import Watched
from tracksided.monitors.reading import HostReading


class Host:
    """Reads ``/proc/stat`` and ``/proc/meminfo``."""

    name = "host"

    def __init__(self) -> None:
        self._is_primed = False

    def read(self, watched: Watched, reading: HostReading) -> HostReading:
        """Add busy CPU time since the last call, and memory that is not available."""
        del watched
        busy = psutil.cpu_percent()  # of the time since the call before: the first says nothing
        cpu_percent = busy if self._is_primed else None
        self._is_primed = True
        return replace(
            reading,
            cpu_percent=cpu_percent,
            memory_percent=psutil.virtual_memory().percent,
        )
