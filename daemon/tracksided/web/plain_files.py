"""Open files of a run for reading: below its directory, no link followed, nothing but files.

Names come from a browser or from lines that a training caused; neither may lead out of the run.
"""

import errno
import os
import stat
from pathlib import Path

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
# Without O_NONBLOCK, opening a pipe that lies there would wait for a writer.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
# What a name can be that is no plain file; everything else is a real error.
_NOT_THERE = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO, errno.ENAMETOOLONG}


def open_plain(directory: Path, *names: str) -> int | None:
    """Open a regular file for reading.

    Args:
        directory: of the run; links on the way to it are the user's own and are followed.
        names: folder names and, at last, the file's name; each one component.

    Returns:
        The descriptor, owned by the caller; None where there is no regular file.

    Raises:
        OSError: it is there and cannot be opened.
        ValueError: a name is more than one component.
    """
    descriptor = _open_folder(directory, names[:-1])
    if descriptor is None:
        return None
    try:
        file = _open(_component(names[-1]), _FILE, descriptor)
    finally:
        os.close(descriptor)
    if file is not None and not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        return None
    return file


def list_plain(directory: Path, *names: str) -> list[str]:
    """Return the names in a folder of the run, sorted; empty where there is no such folder.

    Raises:
        OSError: it is there and cannot be read.
        ValueError: a name is more than one component.
    """
    descriptor = _open_folder(directory, names)
    if descriptor is None:
        return []
    try:
        return sorted(os.listdir(descriptor))  # noqa: PTH208 - a descriptor is no path
    finally:
        os.close(descriptor)


def _open_folder(directory: Path, names: tuple[str, ...]) -> int | None:
    try:
        descriptor: int | None = os.open(directory, _DIRECTORY)
    except OSError as error:
        if error.errno in _NOT_THERE:
            return None
        raise
    for name in names:
        assert descriptor is not None  # noqa: S101 - the loop ends where it is None
        try:
            inner = _open(_component(name), _DIRECTORY | os.O_NOFOLLOW, descriptor)
        finally:
            os.close(descriptor)
        if inner is None:
            return None
        descriptor = inner
    return descriptor


def _open(name: str, flags: int, directory: int) -> int | None:
    try:
        return os.open(name, flags, dir_fd=directory)
    except OSError as error:
        if error.errno in _NOT_THERE:
            return None
        raise


def _component(name: str) -> str:
    if name in {"", ".", ".."} or "/" in name or "\0" in name:
        raise ValueError(f"{name!r} is not the name of one file")
    return name
