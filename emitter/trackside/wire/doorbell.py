"""Doorbells: hints over ZeroMQ that a ring has something new.

A doorbell carries nothing. It may be lost, late or doubled: the daemon also looks by itself.
"""

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

import zmq

from trackside.errors import DoorbellUnavailable
from trackside.wire.locks import OWNER_ONLY

SOCKET_NAME = "daemon.sock"
MAX_PATH_BYTES = 107  # sockaddr_un.sun_path without its final zero
RECONNECT_MS = 100
MAX_MESSAGE_BYTES = 64  # a doorbell is empty; who sends more is hung up on
MAX_RECONNECT_MS = 5000  # a daemon started later is found within this time

# libzmq aborts the process when it cannot open the few descriptors a socket needs (measured: 5).
DESCRIPTOR_HEADROOM = 16


class Doorbell:
    """The trainer's side. Made once, at attach; `ring` never waits and never raises.

    One thread at a time. In a forked child it does nothing.
    """

    def __init__(self, directory: Path) -> None:
        """Prepare to ring; whether a daemon listens does not matter.

        Raises:
            DoorbellUnavailable: too few descriptors are left, or the path is too long.
        """
        address = _address(directory)
        _check_descriptors()
        self._owner_pid = os.getpid()
        self._context = zmq.Context(io_threads=1)
        self._socket = self._context.socket(zmq.PUSH)
        self._socket.setsockopt(zmq.CONFLATE, 1)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.RECONNECT_IVL, RECONNECT_MS)
        self._socket.setsockopt(zmq.RECONNECT_IVL_MAX, MAX_RECONNECT_MS)
        try:
            self._socket.connect(address)
        except zmq.ZMQError as error:
            self._context.destroy(linger=0)
            raise DoorbellUnavailable(f"doorbell {address}: {error}") from error

    def ring(self) -> None:
        """Ask the daemon to look; nothing happens if there is none."""
        if os.getpid() != self._owner_pid or self._socket.closed:
            return
        with contextlib.suppress(zmq.ZMQError):  # a hint: the daemon looks by itself, too
            self._socket.send(b"", zmq.NOBLOCK)

    def close(self) -> None:
        """Drop what was not delivered; twice is fine."""
        if os.getpid() == self._owner_pid:
            self._context.destroy(linger=0)


class Listener:
    """The daemon's side. Its maker must hold the daemon lock: a second bind steals the path."""

    def __init__(self, directory: Path) -> None:
        """Bind the socket, replacing what a killed daemon left, or anybody else.

        Raises:
            DoorbellUnavailable: the path is too long or cannot be bound.
        """
        address = _address(directory)
        _check_descriptors()
        self._path = directory / SOCKET_NAME
        self._context = zmq.Context(io_threads=1)
        self._socket = self._context.socket(zmq.PULL)
        self._socket.setsockopt(zmq.MAXMSGSIZE, MAX_MESSAGE_BYTES)
        self._socket.setsockopt(zmq.CONFLATE, 1)
        self._socket.setsockopt(zmq.LINGER, 0)
        try:
            self._socket.bind(address)
            self._path.chmod(OWNER_ONLY)
        except (zmq.ZMQError, OSError) as error:
            self._context.destroy(linger=0)
            raise DoorbellUnavailable(
                f"doorbell {address}: {error}; remove what stands there"
            ) from error
        self._identity = self._look()

    @property
    def is_in_place(self) -> bool:
        """Whether the socket still lies under its name."""
        return self._identity is not None and self._look() == self._identity

    def wait(self, timeout_s: float, descriptors: Sequence[int] = ()) -> bool:
        """Wait until somebody rings, and take in all that has; False after ``timeout_s``.

        Args:
            timeout_s: at most.
            descriptors: of something else; if one can be read from, that ends the wait, too.
        """
        poller = zmq.Poller()
        poller.register(self._socket, zmq.POLLIN)
        for descriptor in descriptors:
            poller.register(descriptor, zmq.POLLIN)
        ready = dict(poller.poll(max(0, round(timeout_s * 1000))))
        if self._socket not in ready:
            return False
        with contextlib.suppress(zmq.Again):
            while True:
                self._socket.recv(zmq.NOBLOCK)
        return True

    def close(self) -> None:
        """Stop listening and remove the socket's path; twice is fine."""
        if not self._socket.closed:
            is_ours = self.is_in_place
            self._context.destroy(linger=0)
            if is_ours:
                self._path.unlink(missing_ok=True)

    def _look(self) -> tuple[int, int] | None:
        try:
            found = self._path.lstat()
        except OSError:
            return None
        return found.st_dev, found.st_ino


def _address(directory: Path) -> str:
    path = os.fsencode(directory / SOCKET_NAME)
    if len(path) > MAX_PATH_BYTES:
        raise DoorbellUnavailable(
            f"socket path {os.fsdecode(path)} has {len(path)} bytes, a socket path holds "
            f"{MAX_PATH_BYTES}; set TRACKSIDE_SHM_DIR to a shorter directory"
        )
    return f"ipc://{os.fsdecode(path)}"


def _check_descriptors() -> None:
    """Open and close a few descriptors, since libzmq aborts where they run out."""
    opened: list[int] = []
    try:
        for _ in range(DESCRIPTOR_HEADROOM):
            opened.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))  # noqa: PERF401 - all are closed, also where one fails
    except OSError as error:
        raise DoorbellUnavailable(
            f"fewer than {DESCRIPTOR_HEADROOM} file descriptors are left ({error.strerror}); "
            "raise the limit: ulimit -n"
        ) from error
    finally:
        for descriptor in opened:
            os.close(descriptor)
