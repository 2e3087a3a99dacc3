"""Open checkpoint files and directories for reading, and notice when they change."""

import errno
import os
import stat
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from isal import isal_zlib

from tracksided.checkpoints.refusals import SourceRefused
from tracksided.checkpoints.shown import shown

# Nonblocking, so that a named pipe called model.pt is refused instead of waited for.
OPEN_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK

_MAX_NAME_BYTES = 255  # NAME_MAX of Linux
_BLOCK_BYTES = 1 << 20  # small enough for the cache, large enough to hide the system call


@dataclass(frozen=True, slots=True)
class FileIdentity:
    """What tells one state of a file from another without reading it."""

    device: int | str
    inode: int | str
    nbytes: int
    mtime_ns: int
    version: str = ""
    """ETag of an object in a store; empty for files, whose inode says it."""

    @classmethod
    def of(cls, status: os.stat_result) -> Self:
        """Take the identity out of a stat result."""
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


class SourceFile:
    """A regular file, open for reading at any offset.

    It stays readable when the trainer's rotation unlinks it. Any thread may read.
    """

    def __init__(self, path: Path, *, inside: "SourceDirectory | None" = None) -> None:
        """Open a file that is a checkpoint, or, ``inside`` a directory, a part of one.

        Args:
            path: of the file.
            inside: the checkpoint that it is a part of; None where it is one itself.

        Raises:
            SourceRefused: it cannot be opened, or is no regular file.
        """
        self.path = path
        self.owner: Path = path if inside is None else inside.owner
        """The checkpoint that it is or belongs to."""

        try:
            if inside is None:
                self.descriptor = os.open(path, OPEN_FLAGS)
            else:
                self.descriptor = inside.open_entry(path.name)
        except OSError as error:
            raise self.refusal(f"cannot be opened: {error.strerror}") from error
        self.status = os.fstat(self.descriptor)
        if not stat.S_ISREG(self.status.st_mode):
            self.close()
            raise self.refusal("not a regular file")
        self.identity = FileIdentity.of(self.status)

    @property
    def name(self) -> str:
        """The file's name, with its directory's where that is the checkpoint."""
        if self.owner == self.path:
            return self.path.name
        return f"{self.owner.name}/{self.path.relative_to(self.owner)}"

    @property
    def nbytes(self) -> int:
        """Size when it was opened."""
        return self.identity.nbytes

    @property
    def begins_at(self) -> int:
        """Position of its first byte in the file at `path`."""
        return 0

    def read_whole(self, max_bytes: int) -> bytes:
        """Read a file that is small if it is what its name says.

        Args:
            max_bytes: that it may have.

        Raises:
            SourceRefused: it is longer, or as in `read_into`.
        """
        if self.nbytes > max_bytes:
            raise self.refusal(f"{self.nbytes} bytes, more than the {max_bytes} read here")
        return self.read(0, self.nbytes)

    def read(self, offset: int, nbytes: int) -> bytes:
        """Read exactly ``nbytes`` at ``offset``; for headers and directories.

        Args:
            offset: bytes from the start.
            nbytes: how many.

        Raises:
            SourceRefused: as in `read_into`.
        """
        buffer = bytearray(nbytes)
        self.read_into(memoryview(buffer), offset)
        return bytes(buffer)

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill ``buffer`` from ``offset``.

        Args:
            buffer: what is filled, to its end.
            offset: bytes from the start.

        Raises:
            SourceRefused: the file ends before, or cannot be read.
        """
        filled = 0
        while filled < len(buffer):
            try:
                count = os.preadv(self.descriptor, [buffer[filled:]], offset + filled)
            except OSError as error:
                raise self.refusal(f"read failed: {error.strerror}") from error
            if count == 0:
                missing = len(buffer) - filled
                raise self.refusal(f"ends at byte {offset + filled}, {missing} bytes are missing")
            filled += count

    def blocks(self, offset: int, nbytes: int) -> Iterator[tuple[int, memoryview]]:
        """Read a range of any length, in order, without holding it.

        Args:
            offset: bytes from the start.
            nbytes: how many.

        Yields:
            Position in the range, and what begins there, which stands until the next is taken.

        Raises:
            SourceRefused: as in `read_into`.
        """
        buffer = memoryview(bytearray(min(_BLOCK_BYTES, nbytes)))
        for position in range(0, nbytes, _BLOCK_BYTES):
            block = buffer[: min(_BLOCK_BYTES, nbytes - position)]
            self.read_into(block, offset + position)
            yield position, block

    def crc32(self, offset: int, nbytes: int) -> int:
        """Return the CRC-32 of a range of any length.

        Args:
            offset: bytes from the start.
            nbytes: how many.

        Raises:
            SourceRefused: as in `read_into`.
        """
        crc = 0
        for _, block in self.blocks(offset, nbytes):
            crc = isal_zlib.crc32(block, crc)
        return crc

    def require_unchanged(self) -> None:
        """Refuse the file if it was written to since it was opened."""
        if FileIdentity.of(os.fstat(self.descriptor)) != self.identity:
            raise self.refusal("changed while it was being read")

    def refusal(self, reason: str) -> SourceRefused:
        """Make the error that costs the whole checkpoint its place.

        Args:
            reason: what is wrong with the file, for the user.
        """
        if self.owner == self.path:
            return SourceRefused(self.path, reason)
        return SourceRefused(self.owner, f"{self.path.relative_to(self.owner)}: {reason}")

    def give_up(self) -> None:
        """Let threads that wait for what they read end, where there is a way to."""

    def close(self) -> None:
        """Close the descriptor; may be called again."""
        # In this order: a signal that comes here may lead to another call.
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


class SourceDirectory:
    """A checkpoint directory, and the files in it that were opened.

    Entries are opened relative to the directory that was opened first, so that a directory
    which is rotated away and made anew under the same name is never mixed with the old one.
    """

    def __init__(self, path: Path, *, inside: "SourceDirectory | None" = None) -> None:
        """Open and list a directory that is a checkpoint, or, ``inside`` one, a part of it.

        Args:
            path: of the directory.
            inside: the checkpoint that it is a part of; None where it is one itself.

        Raises:
            SourceRefused: it cannot be opened or listed.
        """
        self.path = path
        self.owner: Path = path if inside is None else inside.owner
        """The checkpoint that it is or belongs to."""

        self._files: dict[str, SourceFile] = {}
        self._directories: dict[str, SourceDirectory] = {}
        try:
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
            if inside is None:
                self.descriptor = os.open(path, flags)
            else:
                self.descriptor = os.open(
                    path.name, flags | os.O_NOFOLLOW, dir_fd=inside.descriptor
                )
        except OSError as error:
            raise self.refusal(f"cannot be opened: {error.strerror}") from error
        try:
            self.status = os.fstat(self.descriptor)
            self.names = frozenset(os.listdir(self.descriptor))  # noqa: PTH208 - by descriptor
        except OSError as error:
            self.close()
            raise self.refusal(f"cannot be listed: {error.strerror}") from error

    def open(self, name: str) -> SourceFile:
        """Open a file of the directory, once; it is closed together with the directory.

        Args:
            name: of an entry.

        Raises:
            SourceRefused: there is none, or the name or a link leads out of the directory.
        """
        if name not in self._files:
            if not is_entry_name(name):
                raise self.refusal(f"{shown(name)} names no file inside of it")
            self._files[name] = SourceFile(self.path / name, inside=self)
        return self._files[name]

    def directory(self, name: str) -> "SourceDirectory":
        """Open a directory in it, once; it is closed together with this one.

        Args:
            name: of an entry.

        Raises:
            SourceRefused: there is none, or it is a link.
        """
        if name not in self._directories:
            self._directories[name] = SourceDirectory(self.path / name, inside=self)
        return self._directories[name]

    def is_directory(self, name: str) -> bool:
        """Whether an entry is a directory, and no link to one.

        Args:
            name: of the entry.
        """
        try:
            status = os.stat(name, dir_fd=self.descriptor, follow_symlinks=False)
        except OSError:
            return False
        return stat.S_ISDIR(status.st_mode)

    def is_file(self, name: str) -> bool:
        """Whether an entry is a regular file, or a link to one of the directory's.

        Args:
            name: of the entry; one that is gone since it was listed counts, opening it says so.
        """
        try:
            status = os.stat(name, dir_fd=self.descriptor, follow_symlinks=False)
        except OSError:
            return True
        if stat.S_ISLNK(status.st_mode):
            try:
                target = os.readlink(name, dir_fd=self.descriptor)
                if not is_entry_name(target):
                    return False
                status = os.stat(target, dir_fd=self.descriptor, follow_symlinks=False)
            except OSError:
                return False
        return stat.S_ISREG(status.st_mode)

    def open_entry(self, name: str) -> int:
        """Open an entry, following one link if that stays in the directory.

        Args:
            name: of the entry.

        Raises:
            OSError: as the system says.
            SourceRefused: a link leads elsewhere.
        """
        flags = OPEN_FLAGS | os.O_NOFOLLOW
        try:
            return os.open(name, flags, dir_fd=self.descriptor)
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
        target = os.readlink(name, dir_fd=self.descriptor)
        if not is_entry_name(target):
            raise self.refusal(f"{name}: a link that leaves the directory")
        return os.open(target, flags, dir_fd=self.descriptor)

    def refusal(self, reason: str) -> SourceRefused:
        """Make the error that costs the checkpoint its place.

        Args:
            reason: what is wrong with it, for the user.
        """
        if self.owner == self.path:
            return SourceRefused(self.path, reason)
        return SourceRefused(self.owner, f"{self.path.relative_to(self.owner)}: {reason}")

    def keep_open(self, kept: Collection[SourceFile]) -> None:
        """Close all other files: many checkpoints of many files would use up the descriptors.

        Args:
            kept: what stays open.
        """
        for file in self._files.values():
            if file not in kept:
                file.close()
        for directory in self._directories.values():
            directory.keep_open(kept)
            directory._close_itself()  # noqa: SLF001 - its own kind

    def close(self) -> None:
        """Close everything; may be called again."""
        for file in self._files.values():
            file.close()
        for directory in self._directories.values():
            directory.close()
        self._close_itself()

    def _close_itself(self) -> None:
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


def is_entry_name(name: str) -> bool:
    """Whether a name stands for an entry of a directory itself, not for a way out of it.

    Half of a surrogate pair, which JSON and pickles can hold, is in no name of a file, and none is
    longer than 255 bytes.
    """
    try:
        encoded = os.fsencode(name)
    except UnicodeEncodeError:
        return False
    is_plain = encoded not in {b"", b".", b".."} and b"/" not in encoded and b"\0" not in encoded
    return is_plain and len(encoded) <= _MAX_NAME_BYTES
