"""Start a daemon for a while, and wait until it has written everything."""

import contextlib
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Iterator
from pathlib import Path

from trackside.wire import segment
from trackside.wire.doorbell import SOCKET_NAME
from trackside.wire.locks import daemon_pid
from tracksided.errors import TracksidedError

logger = logging.getLogger(__name__)

COMMAND = (sys.executable, "-P", "-m", "tracksided", "daemon")
START_LIMIT_S = 60.0  # imports on a starved machine
STOP_LIMIT_S = 15.0  # the daemon drains for at most 10
POLL_S = 0.05


class DaemonNotStarted(TracksidedError):
    """A daemon was started and did not come up; the message holds its last words."""


@contextlib.contextmanager
def running_daemon(directory: Path, *arguments: str) -> Iterator[None]:
    """Serve a node-local directory as long as the context lasts, unless a daemon does already.

    The daemon is a child in a session of its own: Ctrl-C in a terminal does not reach it. It
    ends with this process, even where that is killed.

    Raises:
        DaemonNotStarted: it ended, or did not answer in time.
    """
    segment.ensure_node_directory(directory)
    if daemon_pid(directory) is not None:
        yield
        return
    log = directory / "daemon.log"
    with log.open("wb") as output:
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
        yield
    finally:
        _stop(child)


def wait_until_drained(
    directory: Path, run: str | None, timeout_s: float, *, apart_from: Collection[Path] = ()
) -> bool:
    """Wait until the daemon is done with every segment whose trainer has ended.

    Args:
        directory: node-local.
        run: only segments of this run; None for all.
        timeout_s: seconds until giving up.
        apart_from: segments that are not waited for.

    Returns:
        Whether nothing is left.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        found = [path for path in segment.scan(directory) if path not in apart_from]
        if not any(_is_left(path, run) for path in found):
            return True
        if time.monotonic() >= deadline:
            return False
        time.sleep(POLL_S)


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


def _last_words(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1] if lines else f"it said nothing, see {log}"


def _stop(child: subprocess.Popen[bytes]) -> None:
    child.send_signal(signal.SIGTERM)
    try:
        child.wait(STOP_LIMIT_S)
    except subprocess.TimeoutExpired:
        logger.warning("the daemon (pid %d) does not end and is killed", child.pid)
        child.kill()
        child.wait()
