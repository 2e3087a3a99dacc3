"""Publish a directory so that others see it whole or not at all.

It is written under a temporary name; what has that name holds nothing of anybody else, ever. When
it is whole it is renamed to an aside name, under which nothing is deleted but what a description
lists, and only from there it is exchanged with the output. So the old directory lies under an aside
name from the first moment on, with all that others have put into it, and it is safe to be killed at
any time: `sweep` finishes the rest.
"""

import errno
import fcntl
import logging
import os
import shutil
import stat
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from tracksided.checkpoints.directory_lock import locked
from tracksided.checkpoints.ending import signals_held
from tracksided.checkpoints.formats.base import OutputFile
from tracksided.checkpoints.naming import aside_name, temporary_name
from tracksided.checkpoints.publish import NOT_OPEN, WRITABLE, Unnamed, take_owner_and_mode
from tracksided.checkpoints.renaming import exchange
from tracksided.checkpoints.replaced import discard, hand_over, open_directory
from tracksided.checkpoints.writeback import FileTarget
from tracksided.durable import sync_directory
from tracksided.errors import OutputError

logger = logging.getLogger(__name__)


class DirectoryPublication(Unnamed):
    """A directory under a temporary name, locked by its writer, until `commit` exchanges it.

    Leaving the context without `commit` removes it. A writer that is killed leaves an unlocked
    temporary directory behind, which `sweep` removes.
    """

    noun = "average"

    def __init__(self, path: Path, files: Sequence[OutputFile], like: os.stat_result) -> None:
        """Create all files and allocate their space, with the owners and modes they shall have.

        Raises:
            OutputError: the directory is not writable, or the disk is full.
        """
        self.path = path
        self.temporary = path.with_name(temporary_name(path.name))
        self.targets: tuple[FileTarget, ...] = ()
        self.paths = tuple(self.temporary / file.name for file in files)
        self._like = like
        self.likes: list[os.stat_result] = []  # of each target
        self._within: dict[str, int] = {}  # descriptors of the directories in it
        self._directory = NOT_OPEN
        try:
            # So that nobody sweeps it before it is locked itself, nor a signal leaves it behind.
            with locked(path.parent), signals_held():
                self.temporary.mkdir(0o700)
                self._directory = _open_locked(self.temporary)
        except OSError as error:
            raise OutputError(f"{path}: cannot be written: {error.strerror}") from error
        except BaseException:  # the signal that was held
            self._end()
            raise
        try:
            for file in files:
                self.add(file)
        except BaseException as error:  # the signal that ends us may come right here
            self._end()
            if not isinstance(error, OSError):
                raise
            nbytes = sum(file.nbytes for file in files)
            raise OutputError(
                f"{path}: no room for {nbytes} bytes: {error.strerror}; the previous average stays"
            ) from error

    def add(self, file: OutputFile) -> FileTarget:
        """Create one file, allocate its space, and return it."""
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        directory, _, name = file.name.rpartition("/")
        around = self._open_within(directory) if directory else self._directory
        descriptor = os.open(name, flags, 0o600, dir_fd=around)
        target = FileTarget(descriptor)
        self.targets = (*self.targets, target)
        self.likes.append(file.like)
        take_owner_and_mode(descriptor, file.like, besides=WRITABLE)
        if file.nbytes:
            os.posix_fallocate(descriptor, 0, file.nbytes)
        return target

    def sync(self) -> None:
        """Wait until everything written is on disk."""
        for target in self.targets:
            target.sync()
        for descriptor in self._directories:
            os.fsync(descriptor)

    def commit(self) -> None:
        """Sync, give the directory its name, and remove what an average wrote of the old one."""
        for target, like in zip(self.targets, self.likes, strict=True):
            take_owner_and_mode(target.descriptor, like)
        self.sync()
        for descriptor in self._directories:
            take_owner_and_mode(descriptor, self._like, besides=stat.S_IRWXU)
        with locked(self.path.parent), signals_held():
            aside = _take_name(self.temporary, self.path)
            self._is_committed = True
            old = None if aside is None else _open_if_directory(aside)
            own = frozenset[str]() if old is None else hand_over(old, self._directory)
            self._close_for_changes()
            sync_directory(self.path.parent)
            if aside is not None and old is not None:
                discard(aside, old, own)
                os.close(old)

    @property
    def _directories(self) -> tuple[int, ...]:
        """Descriptors of those in it, then its own."""
        return (*self._within.values(), self._directory)

    def _close_for_changes(self) -> None:
        """Take the rights that its owner had while it was made, where the source gives none."""
        extra = stat.S_IRWXU & ~self._like.st_mode
        for descriptor in self._directories if extra else ():
            os.fchmod(descriptor, stat.S_IMODE(os.fstat(descriptor).st_mode) & ~extra)

    def _open_within(self, name: str) -> int:
        if name not in self._within:
            os.mkdir(name, 0o700, dir_fd=self._directory)
            self._within[name] = open_directory(name, within=self._directory)
        return self._within[name]

    def _remove(self) -> None:
        with suppress(OSError):
            if os.path.samestat(self.temporary.lstat(), os.fstat(self._directory)):
                remove_unpublished(self.temporary, self._directory)
        self._close()

    def _close(self) -> None:
        files = (target.descriptor for target in self.targets)
        for descriptor in (*files, *self._directories):
            if descriptor != NOT_OPEN:
                os.close(descriptor)
        self.targets = ()
        self._within.clear()


def remove_unpublished(temporary: Path, descriptor: int) -> None:
    """Remove a directory that never had its name, with all that is in it; raises OSError."""
    for entry in list(os.scandir(descriptor)):
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.name, dir_fd=descriptor)
        else:
            os.unlink(entry.name, dir_fd=descriptor)
    temporary.rmdir()


def _take_name(temporary: Path, path: Path) -> Path | None:
    """Rename a directory to its final name; return where the one that had it went, or None.

    Raises:
        OSError: it cannot be renamed, or what has the name is no directory.
    """
    if not os.path.lexists(path):
        temporary.rename(path)
        return None
    if not stat.S_ISDIR(path.lstat().st_mode):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
    ready, aside = (path.with_name(aside_name(path.name)) for _ in range(2))
    temporary.rename(ready)
    try:
        if exchange(ready, path):
            return ready
        path.rename(aside)
        try:
            ready.rename(path)
        except OSError:
            aside.rename(path)
            raise
    except OSError:
        ready.rename(temporary)
        raise
    return aside


def _open_if_directory(aside: Path) -> int | None:
    """Open what had the name; None for what somebody put there at the last moment."""
    try:
        return open_directory(aside)
    except OSError as error:
        logger.warning("%s was replaced, and is left there: %s", aside, error.strerror)
        return None


def _open_locked(directory: Path) -> int:
    descriptor = open_directory(directory)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        directory.rmdir()
        os.close(descriptor)
        raise
    return descriptor
