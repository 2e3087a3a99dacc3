"""The monitoring process: ``python -m tracksided.monitors.child FD PARENT``.

Takes one `Watched` at a time, says `Began` before each monitor, answers with a `HostReading`.
A driver or a file server that does not answer hangs this process, never the daemon.
"""

import logging
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection

from tracksided.monitors.catalog import make_monitors
from tracksided.monitors.monitor import Began, Monitor, Watched
from tracksided.monitors.reading import HostReading
from tracksided.printable import log_to_stderr
from tracksided.priority import die_with, leave_terminal_to_parent

logger = logging.getLogger(__name__)


class Sampler:
    """Asks all monitors in turn; a broken one costs its own part of the reading."""

    def __init__(self, monitors: Sequence[Monitor], say: Callable[[Began], None]) -> None:
        self._monitors = monitors
        self._say = say
        self._broken: dict[str, str] = {}

    def read(self, watched: Watched, timestamp: float) -> HostReading:
        """Take one reading."""
        reading = HostReading(timestamp=timestamp)
        for monitor in self._monitors:
            if monitor.name in watched.without:
                continue
            self._say(Began(monitor.name))
            try:
                reading = monitor.read(watched, reading)
            except Exception as error:  # noqa: BLE001 - the boundary of a stage, logged below
                self._note(monitor.name, error)
        return reading

    def _note(self, name: str, error: Exception) -> None:
        """Log a failure when it is new."""
        reason = f"{type(error).__name__}: {error}"
        if self._broken.get(name) != reason:
            self._broken[name] = reason
            logger.error("monitor %s reads nothing: %s", name, reason, exc_info=error)


def main(arguments: Sequence[str]) -> int:
    """Serve until the parent closes the socket."""
    descriptor, parent = (int(argument) for argument in arguments)
    leave_terminal_to_parent()
    die_with(parent)
    log_to_stderr(logging.WARNING, "monitors")
    with Connection(descriptor) as connection:
        sampler = Sampler(make_monitors(), connection.send)
        while True:
            try:
                watched = connection.recv()
                if not isinstance(watched, Watched):
                    raise TypeError(f"the daemon sent {type(watched).__name__}, expected Watched")
                connection.send(sampler.read(watched, time.time()))
            except (EOFError, BrokenPipeError, ConnectionResetError):
                return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
