"""Let one averaging at a time give and take names in a directory."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def locked(directory: Path, *, waits: bool = True) -> Iterator[bool]:
    """Hold the lock of a directory, which is on the directory itself: a kill frees it.

    Where a file system locks no directories, everybody goes on without. Not to be nested.

    Args:
        directory: whose names are given and taken.
        waits: for another holder, who needs no longer than a few renames.

    Yields:
        Whether it is held; False only where ``waits`` is.

    Raises:
        OSError: the directory cannot be opened.
    """
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield _take(descriptor, waits=waits)
    finally:
        os.close(descriptor)


def _take(descriptor: int, *, waits: bool) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if waits else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True  # not here; the locks of single outputs still tell who lives
    return True
