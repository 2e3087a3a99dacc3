"""One daemon per user and directory, signals, and the service manager's protocol."""

import fcntl
import os
import signal
import socket
from collections.abc import Mapping
from pathlib import Path
from types import FrameType

from trackside.wire.locks import DAEMON_LOCK_NAME, OWNER_ONLY, daemon_pid, name_holder
from tracksided.errors import DaemonRunning


class DaemonLock:
    """Exclusive POSIX lock on ``daemon.lock``: held as long as this process lives.

    POSIX locks go when their process closes any descriptor of the file, so only this class
    opens it in the daemon's process.
    """

    def __init__(self, directory: Path) -> None:
        """Take the lock.

        Raises:
            DaemonRunning: another process holds it.
        """
        self._path = directory / DAEMON_LOCK_NAME
        self._fd = os.open(
            self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, OWNER_ONLY
        )
        try:
            fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._fd)
            holder = daemon_pid(directory)  # None where it has ended just now
            who = "" if holder is None else f" ({name_holder(holder)})"
            raise DaemonRunning(
                f"a daemon already serves {directory}{who}; see `trackside status`"
            ) from error

    @property
    def is_in_place(self) -> bool:
        """Whether the locked file still lies under its name."""
        try:
            return os.path.samestat(self._path.lstat(), os.fstat(self._fd))
        except OSError:
            return False

    def release(self) -> None:
        """Let the next daemon in. The file stays: removing it would race with that daemon."""
        os.close(self._fd)


class Signals:
    """Turns SIGTERM, SIGINT and SIGHUP into flags that the main loop reads.

    A scheduler that ends a job sends SIGTERM to all of its processes at once. A daemon that was
    started for a command takes it as coming from there: the training is not over yet, and whoever
    started the daemon ends it afterwards, with SIGINT.
    """

    def __init__(self, parent: int | None = None) -> None:
        """Install the handlers; only in the main thread.

        Args:
            parent: process without which SIGTERM counts; None where it always does.
        """
        self.reload = False
        self._parent = parent
        self._is_interrupted = False
        self._is_terminated = False
        signal.signal(signal.SIGINT, self._on_interrupt)
        signal.signal(signal.SIGTERM, self._on_terminate)
        signal.signal(signal.SIGHUP, self._on_reload)

    @property
    def stop(self) -> bool:
        """Whether it is time to end."""
        return self._is_interrupted or (self._is_terminated and os.getppid() != self._parent)

    def _on_interrupt(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self._is_interrupted = True

    def _on_terminate(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self._is_terminated = True

    def _on_reload(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self.reload = True


class ServiceNotifier:
    """Speaks sd_notify(3) where a service manager listens, and is silent elsewhere."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        """Read the manager's socket and watchdog period from the environment."""
        address = environ.get("NOTIFY_SOCKET", "")
        # A leading @ stands for the null byte of Linux's abstract namespace.
        self._address = "\0" + address[1:] if address.startswith("@") else address
        watchdog_us = environ.get("WATCHDOG_USEC", "")
        self.watchdog_s = int(watchdog_us) / 1e6 if watchdog_us.isdigit() else None

    def send(self, *assignments: str) -> None:
        """Send assignments such as ``READY=1``, without waiting.

        A manager that is gone, or does not take what it was sent before, is no error.
        """
        if not self._address:
            return
        kind = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        with socket.socket(socket.AF_UNIX, kind) as sender:
            try:
                sender.sendto("\n".join(assignments).encode(), self._address)
            except BlockingIOError:
                return
            except (ConnectionRefusedError, FileNotFoundError):
                self._address = ""

    def feed_watchdog(self) -> None:
        """Say that all is well, where the manager wants to know."""
        if self.watchdog_s is not None:
            self.send("WATCHDOG=1")
