"""Write in full, and let the disk begin before fsync asks for everything at once."""

import ctypes
import functools
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

_SYNC_FILE_RANGE_WRITE = 2


class Target(Protocol):
    """A file of an output, while it is written."""

    def write(self, content: bytes | memoryview, offset: int) -> None:
        """Write all of ``content``; raises OSError."""

    def begin_writeback(self, offset: int, nbytes: int) -> None:
        """Take the hint that a range is written and can go to disk."""

    def sync(self) -> None:
        """Wait until everything written is on disk; raises OSError."""


@dataclass(frozen=True, slots=True)
class FileTarget:
    """An open file. Any thread may write."""

    descriptor: int

    def write(self, content: bytes | memoryview, offset: int) -> None:
        """Write all of ``content`` at ``offset``; the system may take less at once."""
        written = 0
        while written < len(content):
            written += os.pwrite(self.descriptor, content[written:], offset + written)

    def begin_writeback(self, offset: int, nbytes: int) -> None:
        """Start writing a range to disk, without waiting for it.

        Only a hint: what the file system refuses, the fsync at the end does.
        """
        _sync_file_range()(self.descriptor, offset, nbytes, _SYNC_FILE_RANGE_WRITE)

    def sync(self) -> None:
        """Wait until everything written is on disk."""
        os.fsync(self.descriptor)


@functools.cache
def _sync_file_range() -> Callable[[int, int, int, int], int]:
    function = ctypes.CDLL(None, use_errno=True).sync_file_range
    function.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
    function.restype = ctypes.c_int
    return function
