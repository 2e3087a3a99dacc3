"""Publish a directory so that others see it whole or not at all."""

import fcntl
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from tracksided.checkpoints.directory_lock import locked
from tracksided.checkpoints.formats.base import OutputFile
from tracksided.checkpoints.naming import aside_name, temporary_name
from tracksided.checkpoints.publish import WRITABLE, Unnamed, take_owner_and_mode
from tracksided.checkpoints.renaming import exchange
from tracksided.checkpoints.replaced import discard, hand_over
from tracksided.checkpoints.writeback import FileTarget
from tracksided.durable import sync_directory
from tracksided.errors import OutputError


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
        try:
            with locked(path.parent):  # so that nobody sweeps it before it is locked itself
                self.temporary.mkdir(0o700)
                self._directory = _open_locked(self.temporary)
        except OSError as error:
            raise OutputError(f"{path}: cannot be written: {error.strerror}") from error
        try:
            for file in files:
                self.add(file)
        except BaseException as error:  # the signal that ends us may come right here
            self._remove()
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
        for descriptor in (*self._within.values(), self._directory):
            os.fsync(descriptor)

    def commit(self) -> None:
        """Sync, give the directory its name, and remove what an average wrote of the old one."""
        for target, like in zip(self.targets, self.likes, strict=True):
            take_owner_and_mode(target.descriptor, like)
        self.sync()
        for descriptor in (*self._within.values(), self._directory):
            take_owner_and_mode(descriptor, self._like)
        with locked(self.path.parent):
            old = _take_name(self.temporary, self.path)
            self._is_committed = True
            own = frozenset[str]() if old is None else hand_over(old, self.path)
        sync_directory(self.path.parent)
        if old is not None:
            discard(old, own)

    def _open_within(self, name: str) -> int:
        if name not in self._within:
            os.mkdir(name, 0o700, dir_fd=self._directory)
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW
            self._within[name] = os.open(name, flags, dir_fd=self._directory)
        return self._within[name]

    def _remove(self) -> None:
        shutil.rmtree(self.temporary, ignore_errors=True)
        self._close()

    def _close(self) -> None:
        files = (target.descriptor for target in self.targets)
        for descriptor in (*files, *self._within.values(), self._directory):
            os.close(descriptor)
        self.targets = ()
        self._within.clear()


def _take_name(temporary: Path, path: Path) -> Path | None:
    """Rename a directory to its final name; return where the one that had it went, or None."""
    if not path.exists():
        temporary.rename(path)
        return None
    if exchange(temporary, path):
        return temporary
    aside = path.with_name(aside_name(path.name))
    path.rename(aside)
    try:
        temporary.rename(path)
    except OSError:
        aside.rename(path)
        raise
    return aside


def _open_locked(directory: Path) -> int:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        directory.rmdir()
        os.close(descriptor)
        raise
    return descriptor
