"""Every monitor, in the order in which they look: later ones use what earlier ones found."""

from tracksided.monitors.disk import Disks
from tracksided.monitors.gpus import Gpus
from tracksided.monitors.host import Host
from tracksided.monitors.monitor import Monitor
from tracksided.monitors.pressure import Pressure
from tracksided.monitors.processes import Processes


def make_monitors() -> tuple[Monitor, ...]:
    """Make one of each; what may hang stands last."""
    return (Host(), Processes(), Pressure(), Gpus(), Disks())
