"""What stands in the way for a while, and is taken away again."""

import contextlib
import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

AT_FDCWD, RENAME_EXCHANGE = -100, 2  # linux/fcntl.h, linux/fs.h


@contextlib.contextmanager
def stopped(pid: int, seconds: float) -> Iterator[None]:
    """Hold a process for a while; one that has ended is no error."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGSTOP)
    try:
        time.sleep(seconds)
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


@contextlib.contextmanager
def filled(directory: Path, seconds: float) -> Iterator[None]:
    """Leave no room on a file system for a while."""
    ballast = directory / "ballast"
    space = os.statvfs(directory)
    with ballast.open("wb", buffering=0) as file:
        with contextlib.suppress(OSError):
            os.posix_fallocate(file.fileno(), 0, space.f_bavail * space.f_frsize)
        with contextlib.suppress(OSError):
            while True:  # others take and give meanwhile
                file.seek(0, os.SEEK_END)
                file.write(bytes(4096))
    try:
        time.sleep(seconds)
        yield
    finally:
        ballast.unlink()


@contextlib.contextmanager
def read_only(directory: Path, seconds: float) -> Iterator[None]:
    """Hide a file system behind a read-only view of itself for a while; only for root.

    Descriptors that are open for writing stay so, as they do where a file server changes its mind.
    """
    # Made where nobody looks: a view that has a file open for writing cannot become read-only.
    aside = directory.with_name(directory.name + ".aside")
    aside.mkdir()
    subprocess.run(["mount", "--bind", directory, aside], check=True)
    subprocess.run(["mount", "-o", "remount,ro,bind", aside], check=True)
    subprocess.run(["mount", "--bind", aside, directory], check=True)
    subprocess.run(["umount", aside], check=True)
    aside.rmdir()
    try:
        time.sleep(seconds)
        yield
    finally:
        subprocess.run(["umount", "--lazy", directory], check=True)


@contextlib.contextmanager
def exchanged(directory: Path, seconds: float) -> Iterator[None]:
    """Let a file stand in the place of a directory for a while; there is no moment between."""
    substitute = directory.with_name(directory.name + ".away")
    substitute.write_text("in the way")
    _exchange(directory, substitute)
    try:
        time.sleep(seconds)
        yield
    finally:
        _exchange(directory, substitute)
        substitute.unlink()


def _exchange(one: Path, other: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    names = (os.fsencode(one), os.fsencode(other))
    if libc.renameat2(AT_FDCWD, names[0], AT_FDCWD, names[1], RENAME_EXCHANGE):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(one))
