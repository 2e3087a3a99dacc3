"""Open checkpoint files for reading, and notice when they change under the reader."""

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tracksided.errors import CheckpointRefused

# Nonblocking, so that a named pipe called model.pt is refused instead of waited for.
OPEN_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK


class SourceRefused(CheckpointRefused):
    """One source cannot be used; the others may be."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path.name}: {reason}")
        self.path = path
        self.reason = reason


@dataclass(frozen=True, slots=True)
class FileIdentity:
    """What tells one state of a file from another without reading it."""

    device: int
    inode: int
    nbytes: int
    mtime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> Self:
        """Take the identity out of a stat result."""
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


class SourceFile:
    """A regular file, open for reading at any offset.

    It stays readable when the trainer's rotation unlinks it. Any thread may read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.descriptor = os.open(path, OPEN_FLAGS)
        except OSError as error:
            raise SourceRefused(path, f"cannot be opened: {error.strerror}") from error
        self.status = os.fstat(self.descriptor)
        if not stat.S_ISREG(self.status.st_mode):
            self.close()
            raise SourceRefused(path, "not a regular file")
        self.identity = FileIdentity.of(self.status)

    @property
    def name(self) -> str:
        """The file's name, for messages."""
        return self.path.name

    @property
    def nbytes(self) -> int:
        """Size when it was opened."""
        return self.identity.nbytes

    def read(self, offset: int, nbytes: int) -> bytes:
        """Read exactly ``nbytes`` at ``offset``; for headers and directories."""
        buffer = bytearray(nbytes)
        self.read_into(memoryview(buffer), offset)
        return bytes(buffer)

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill ``buffer`` from ``offset``.

        Raises:
            CheckpointRefused: the file ends before, or cannot be read.
        """
        filled = 0
        while filled < len(buffer):
            try:
                count = os.preadv(self.descriptor, [buffer[filled:]], offset + filled)
            except OSError as error:
                raise SourceRefused(self.path, f"read failed: {error.strerror}") from error
            if count == 0:
                missing = len(buffer) - filled
                raise SourceRefused(
                    self.path, f"ends at byte {offset + filled}, {missing} bytes are missing"
                )
            filled += count

    def require_unchanged(self) -> None:
        """Refuse the file if it was written to since it was opened."""
        if FileIdentity.of(os.fstat(self.descriptor)) != self.identity:
            raise SourceRefused(self.path, "changed while it was being read")

    def close(self) -> None:
        """Close the descriptor; may be called again."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1
