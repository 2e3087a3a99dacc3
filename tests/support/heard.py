"""What was heard of directories, and how many watches the kernel keeps for that."""

from pathlib import Path

from tracksided.checkpoints.events import DirectoryEvents, Notice
from tracksided.checkpoints.settling import Happening


def named(notices: tuple[Notice, ...] | None) -> list[str]:
    """Name what is complete; what is open has a plus."""
    opened = Happening.OPENED
    return [notice.name + "+" * (notice.happening is opened) for notice in notices or ()]


def num_watches(events: DirectoryEvents) -> int:
    """Count the watches that the kernel itself knows of, one line each."""
    (descriptor,) = events.descriptors
    return Path(f"/proc/self/fdinfo/{descriptor}").read_text(encoding="ascii").count("inotify wd:")
