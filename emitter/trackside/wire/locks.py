"""Asks who holds a POSIX lock on a file, without taking it.

A POSIX lock belongs to a process and is dropped when that process closes any descriptor of the
file: never ask about a lock that this process itself holds.
"""

import fcntl
import os
import struct
from pathlib import Path

DAEMON_LOCK_NAME = "daemon.lock"
"""File in the node-local directory that the daemon which serves it holds locked."""

OWNER_ONLY = 0o600  # mode of every file in the node-local directory
SAFE_OPEN = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK  # a fifo must not block the opening
_FLOCK = struct.Struct("hhqqi4x")  # struct flock of 64-bit Linux: type, whence, start, length, pid


def lock_holder(path: Path) -> int | None:
    """Return the pid that holds an exclusive lock on a file, 0 if it is in another PID namespace.

    None where nobody holds it.

    Raises:
        OSError: the file is not there or cannot be opened for reading.
    """
    descriptor = os.open(path, os.O_RDONLY | SAFE_OPEN)
    try:
        question = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        kind, _, _, _, pid = _FLOCK.unpack(fcntl.fcntl(descriptor, fcntl.F_GETLK, question))
    finally:
        os.close(descriptor)
    return None if kind == fcntl.F_UNLCK else max(pid, 0)


def name_holder(pid: int) -> str:
    """Say for people who `lock_holder` found: a process of another container has no pid here."""
    return f"pid {pid}" if pid else "in another container"


def daemon_pid(directory: Path) -> int | None:
    """Return the pid of the daemon that serves a node-local directory; see `lock_holder`.

    None where no daemon runs, and where we may not look: a daemon of ours could not run there
    either. Never call this in the daemon's own process.
    """
    try:
        return lock_holder(directory / DAEMON_LOCK_NAME)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return None
