"""Write a file so that others see it whole or not at all."""

import contextlib
import fcntl
import json
import os
import stat
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

from tracksided.checkpoints.directory_lock import locked
from tracksided.checkpoints.ending import signals_held
from tracksided.checkpoints.naming import temporary_name
from tracksided.checkpoints.renaming import exchange
from tracksided.checkpoints.writeback import FileTarget
from tracksided.durable import sync_directory
from tracksided.errors import OutputError

_MODE_BITS = 0o777  # no bits that give a file the rights of its owner
WRITABLE = 0o600  # while it is written, also by other ranks of the same user
NOT_OPEN = -1  # in place of a descriptor


class Unnamed(ABC):
    """What is written under a temporary name; leaving its context uncommitted removes it."""

    noun: ClassVar[str]
    """What it takes the place of, for messages."""

    path: Path
    """Where it will be."""

    _is_committed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end()
        if not isinstance(error, OSError):
            return
        if self._is_committed:
            raise OutputError(
                f"{self.path}: is new, but may be the previous {self.noun} again after a power "
                f"cut: its directory cannot be synced: {error.strerror}"
            ) from error
        raise OutputError(
            f"{self.path}: writing failed: {error.strerror}; the previous {self.noun} stays"
        ) from error

    def _end(self) -> None:
        """Close it, and remove it if it is uncommitted; who asks twice for the end waits."""
        with signals_held():
            if self._is_committed:
                self._close()
            else:
                self._remove()

    @abstractmethod
    def _remove(self) -> None:
        """Remove and close everything that has been made."""

    @abstractmethod
    def _close(self) -> None:
        """Close everything."""


class Publication(Unnamed):
    """A file under a temporary name, locked by its writer, until `commit_together` renames it.

    Leaving the context without that removes it. A writer that is killed leaves an unlocked
    temporary file behind, which `sweep` removes.
    """

    noun = "file"

    def __init__(self, path: Path, nbytes: int, like: os.stat_result) -> None:
        """Allocate all space at once, with the owner and mode of ``like``.

        Raises:
            OutputError: the directory is not writable, or the disk is full.
        """
        self.path = path
        self.temporary = path.with_name(temporary_name(path.name))
        self.like = like
        self._is_aside = False  # the file that had the name is under the temporary one
        self._is_reversible = False
        self.descriptor = NOT_OPEN
        try:
            # So that nobody sweeps it before it is locked itself, nor a signal leaves it behind.
            with locked(path.parent), signals_held():
                self.descriptor = _create_locked(self.temporary)
        except OSError as error:
            raise OutputError(f"{path}: cannot be written: {error.strerror}") from error
        except BaseException:  # the signal that was held
            self._end()
            raise
        try:
            take_owner_and_mode(self.descriptor, like, besides=WRITABLE)
            if nbytes:
                os.posix_fallocate(self.descriptor, 0, nbytes)
        except BaseException as error:  # the signal that ends us may come right here
            self._end()
            if not isinstance(error, OSError):
                raise
            raise OutputError(
                f"{path}: no room for {nbytes} bytes: {error.strerror}; the previous file stays"
            ) from error

    @property
    def targets(self) -> tuple[FileTarget, ...]:
        """Take the one file for writing."""
        return (FileTarget(self.descriptor),)

    @property
    def paths(self) -> tuple[Path, ...]:
        """Where it lies until then."""
        return (self.temporary,)

    def sync(self) -> None:
        """Wait until everything written is on disk."""
        os.fsync(self.descriptor)

    def take_mode(self) -> None:
        """Give the file the mode that it shall have; see `commit_together`."""
        take_owner_and_mode(self.descriptor, self.like)

    def take_name(self) -> None:
        """Give the file its name; see `commit_together`. `settle` or `give_back` follows.

        The file that had the name takes the temporary one, where the file system can exchange.
        """
        is_free = not os.path.lexists(self.path)
        self._is_aside = not is_free and not self.path.is_dir() and exchange(*self._names)
        if not self._is_aside:
            self.temporary.replace(self.path)
        self._is_reversible = is_free or self._is_aside
        self._is_committed = True

    def settle(self) -> None:
        """Remove the file that had the name."""
        if self._is_aside:
            self.temporary.unlink(missing_ok=True)

    def give_back(self) -> bool:
        """Undo `take_name`; return False where the file that had the name is gone."""
        if not self._is_reversible:
            return False
        try:
            if not self._is_aside:
                self.path.rename(self.temporary)
            elif not exchange(*self._names):
                return False
        except OSError:
            return False
        self._is_committed = False
        return True

    @property
    def _names(self) -> tuple[Path, Path]:
        return self.temporary, self.path

    def _remove(self) -> None:
        self.temporary.unlink(missing_ok=True)
        self._close()

    def _close(self) -> None:
        if self.descriptor != NOT_OPEN:
            os.close(self.descriptor)


def _create_locked(path: Path) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    descriptor = os.open(path, flags, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        path.unlink(missing_ok=True)
        os.close(descriptor)
        raise
    return descriptor


def commit_together(publications: Sequence[Publication]) -> None:
    """Sync files of one directory, then give them their names, all or none.

    What can fail for want of space or for a broken disk fails before the first has its name. Two
    averagings at once into one output take turns, so that its files are of one of them. A signal
    that ends us waits until all is in order. A writer that is killed between two renames leaves a
    new file beside an old one: the next averaging finds that its sources are not those of the
    description, and makes both anew.

    Raises:
        OSError: none has its name.
        OutputError: some have, and the files that had them cannot be brought back.
    """
    for publication in publications:
        publication.take_mode()
        publication.sync()
    with locked(publications[0].path.parent), signals_held():
        _take_names(publications)
        sync_directory(publications[0].path.parent)
        for publication in publications:
            publication.settle()


def _take_names(publications: Sequence[Publication]) -> None:
    taken: list[Publication] = []
    try:
        for publication in publications:
            publication.take_name()
            taken.append(publication)
    except OSError as error:
        kept = [publication for publication in taken if not publication.give_back()]
        if kept:
            raise OutputError(
                f"{publications[len(taken)].path}: cannot be replaced: {error.strerror}; "
                f"{kept[0].path.name} is new already and does not fit it: average again once "
                "that is mended"
            ) from error
        raise


def encode_json(content: Mapping[str, object]) -> bytes:
    """Encode a document the way all of ours are written."""
    return json.dumps(content, indent=2).encode() + b"\n"


def take_owner_and_mode(descriptor: int, like: os.stat_result, *, besides: int = 0) -> None:
    """Give a file or directory of ours the owner, where allowed, and the mode of another.

    Args:
        descriptor: of ours.
        like: of the other.
        besides: mode bits that it has in any case.
    """
    bits, own = _MODE_BITS, os.fstat(descriptor)
    if (own.st_uid, own.st_gid) != (like.st_uid, like.st_gid):
        # Only root may give files away; others write as who they are.
        with contextlib.suppress(PermissionError):
            os.fchown(descriptor, like.st_uid, like.st_gid)
    own = os.fstat(descriptor)
    if stat.S_ISDIR(own.st_mode) and own.st_gid == like.st_gid:
        bits |= stat.S_ISGID  # what others write into it later shall have the group, too
    os.fchmod(descriptor, like.st_mode & bits | besides)
