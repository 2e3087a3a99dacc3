"""Start a daemon for a while, and wait until it has written everything."""

import contextlib
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from trackside.wire import segment
from trackside.wire.doorbell import SOCKET_NAME
from trackside.wire.locks import OWNER_ONLY, daemon_pid
from tracksided.errors import TracksidedError

logger = logging.getLogger(__name__)

COMMAND = (sys.executable, "-P", "-m", "tracksided", "daemon")
START_LIMIT_S = 60.0  # imports on a starved machine
STOP_LIMIT_S = 15.0  # the daemon drains for at most 10
COMEBACK_LIMIT_S = 20.0  # a service manager starts its daemon again, after 2 s and imports
POLL_S = 0.05
LOG_NAME = "daemon.log"


class DaemonNotStarted(TracksidedError):
    """A daemon was started and did not come up; the message holds its last words."""


class DaemonGone(TracksidedError):
    """The daemon ended while its outputs were waited for; the message says how."""

    def __init__(self, message: str, num_left: int) -> None:
        super().__init__(message)
        self.num_left = num_left
        """Segments that stay for the next daemon."""


@dataclass(frozen=True, slots=True)
class Serving:
    """The daemon of a node-local directory, as who waits for its outputs sees it."""

    directory: Path
    child: subprocess.Popen[bytes] | None
    """Where it was started by us, else None."""

    def wait_until_drained(
        self, run: str | None, timeout_s: float, *, apart_from: Collection[Path] = ()
    ) -> bool:
        """Wait until the daemon is done with every segment whose trainer has ended.

        Args:
            run: only segments of this run; None for all.
            timeout_s: seconds until giving up.
            apart_from: segments that are not waited for.

        Returns:
            Whether nothing is left.

        Raises:
            DaemonGone: something is left, and no daemon to write it.
        """
        seen_at = time.monotonic()
        deadline = seen_at + timeout_s
        while True:
            # Asked before the look: what a daemon had finished when it ended is not missed.
            is_served = daemon_pid(self.directory) is not None
            seen_at = time.monotonic() if is_served else seen_at
            ending = None if is_served else self._ending(time.monotonic() - seen_at)
            found = [path for path in segment.scan(self.directory) if path not in apart_from]
            left = sum(_is_left(path, run) for path in found)
            if not left:
                return True
            if ending is not None:
                raise DaemonGone(ending, left)
            if time.monotonic() >= deadline:
                return False
            time.sleep(POLL_S)

    def _ending(self, absent_s: float) -> str | None:
        """Say how the daemon ended, None where it may come back."""
        if self.child is None:
            is_back_soon = absent_s < COMEBACK_LIMIT_S
            return None if is_back_soon else f"the daemon that served {self.directory} has ended"
        code = self.child.poll()
        if code is None:
            return None
        last_words = _last_words(self.directory / LOG_NAME)
        return f"the daemon (pid {self.child.pid}) {_how(code)}: {last_words}"


@contextlib.contextmanager
def running_daemon(directory: Path, *arguments: str) -> Iterator[Serving]:
    """Serve a node-local directory as long as the context lasts, unless a daemon does already.

    The daemon is a child in a session of its own: Ctrl-C in a terminal does not reach it, and
    SIGTERM for a whole job does not end it. It ends with this process, even where that is killed.

    Raises:
        DaemonNotStarted: it ended, or did not answer in time.
    """
    segment.ensure_node_directory(directory)
    if daemon_pid(directory) is not None:
        yield Serving(directory, None)
        return
    log = directory / LOG_NAME
    with open(log, "wb", opener=_for_owner_only) as output:
        child = subprocess.Popen(
            [*COMMAND, "--parent", str(os.getpid()), *arguments],
            env=os.environ | {segment.SHM_DIR_VARIABLE: str(directory)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        _wait_until_up(child, directory, log)
        yield Serving(directory, child)
    finally:
        _stop(child)


def _for_owner_only(path: str, flags: int) -> int:
    return os.open(path, flags, OWNER_ONLY)


def _is_left(path: Path, run: str | None) -> bool:
    name = segment.SegmentName.parse(path.name)
    if name is None or (run is not None and name.run != run):
        return False
    return not segment.is_writer_alive(path)


def _wait_until_up(child: subprocess.Popen[bytes], directory: Path, log: Path) -> None:
    deadline = time.monotonic() + START_LIMIT_S
    while daemon_pid(directory) is None or not (directory / SOCKET_NAME).exists():
        if child.poll() is not None and daemon_pid(directory) is None:
            raise DaemonNotStarted(f"the daemon ended at once: {_last_words(log)}")
        if time.monotonic() >= deadline:
            raise DaemonNotStarted(f"no daemon after {START_LIMIT_S:g} s: {_last_words(log)}")
        time.sleep(POLL_S)


def _how(code: int) -> str:
    """Say how a process ended, from its exit code as `subprocess` has it."""
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:  # a real-time signal has no name
        return f"was ended by signal {-code}"


def _last_words(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1].removeprefix("Error: ") if lines else f"it said nothing, see {log}"


def _stop(child: subprocess.Popen[bytes]) -> None:
    child.send_signal(signal.SIGINT)
    try:
        child.wait(STOP_LIMIT_S)
    except subprocess.TimeoutExpired:
        logger.warning("the daemon (pid %d) does not end and is killed", child.pid)
        child.kill()
        child.wait()
