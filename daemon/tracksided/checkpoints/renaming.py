"""Renames that Python does not know: two names at once, and never over what is there."""

import ctypes
import errno
import os
from pathlib import Path

_NO_REPLACE = 1
_EXCHANGE = 2
_AT_FDCWD = -100
# What file systems and kernels without it answer.
_UNKNOWN = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP})


def exchange(one: Path, other: Path) -> bool:
    """Exchange two names of one file system at once; return False where it cannot.

    Raises:
        OSError: it can, but one of the names is not there or may not be changed.
    """
    return _rename(one, other, _EXCHANGE)


def rename_to_free(path: Path, name: Path) -> bool:
    """Rename a file or directory; return False where the name is taken.

    On a file system that cannot do both at once, what takes the name in between is replaced.

    Raises:
        OSError: it cannot be renamed.
    """
    try:
        if _rename(path, name, _NO_REPLACE):
            return True
    except FileExistsError:
        return False
    if os.path.lexists(name):
        return False
    path.rename(name)
    return True


def _rename(one: Path, other: Path, flags: int) -> bool:
    """Call `renameat2`; return False where there is none.

    Raises:
        OSError: there is, and it fails.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "renameat2"):
        return False
    result = libc.renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), flags)
    if result == 0:
        return True
    number = ctypes.get_errno()
    if number in _UNKNOWN:
        return False
    raise OSError(number, os.strerror(number), str(other))
