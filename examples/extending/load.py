"""How many tasks want a core."""

import os
from dataclasses import replace

from tracksided.monitors.monitor import Watched
from tracksided.monitors.reading import HostReading


class Load:
    """Reads ``/proc/loadavg``: above 1 a core, somebody waits.

    Source: proc_loadavg(5).
    """

    name = "load"

    def read(self, watched: Watched, reading: HostReading) -> HostReading:
        """Add the load of the last minute over the number of cores."""
        del watched
        cores = os.cpu_count()
        load = os.getloadavg()[0] / cores if cores else None
        return replace(reading, load_per_core=load)
