"""Checkpoint files and directories in an object store, opened for reading."""

import os
import stat
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from tracksided.checkpoints.remote.files import RemoteEntry, RemoteFailure, RemoteFiles
from tracksided.checkpoints.remote.windows import SMALL_BYTES, Windows
from tracksided.checkpoints.shown import shown
from tracksided.checkpoints.source import FileIdentity, SourceDirectory, SourceFile, is_entry_name
from tracksided.errors import CheckpointError


@dataclass(frozen=True, slots=True)
class Reading:
    """What all files of one averaging are read through."""

    files: RemoteFiles
    small: Windows
    streams: Windows


class RemoteFile(SourceFile):
    """An object, read by ranges. It is gone when the trainer's rotation deletes it."""

    def __init__(  # a SourceFile that opens no descriptor
        self, reading: Reading, entry: RemoteEntry, *, inside: "RemoteDirectory | None" = None
    ) -> None:
        """Take an object as it was listed; nothing is read yet."""
        self._reading = reading
        self.path = Path(entry.path)
        self.owner = self.path if inside is None else inside.owner
        self.descriptor = -1
        self.status = _status(entry.nbytes, stat.S_IFREG | 0o600)
        self.identity = _identity(reading.files.scheme, entry)
        self._place = (entry.path, entry.nbytes)

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill ``buffer`` from ``offset``; see `SourceFile.read_into`."""
        windows = self._reading.streams
        if len(buffer) <= SMALL_BYTES and not windows.holds(self._place, offset):
            windows = self._reading.small
        try:
            filled = windows.read_into(self._place, buffer, offset)
        except RemoteFailure as failure:
            raise self._lost(failure) from failure
        if filled < len(buffer):
            missing = len(buffer) - filled
            raise self.refusal(f"ends at byte {offset + filled}, {missing} bytes are missing")

    def require_unchanged(self) -> None:
        """Refuse the object if it was overwritten or deleted since it was listed."""
        try:
            found = self._reading.files.look(self._place[0])
        except RemoteFailure as failure:
            raise self._lost(failure) from failure
        if _identity(self._reading.files.scheme, found) != self.identity:
            raise self.refusal("changed while it was being read")

    def _lost(self, failure: RemoteFailure) -> CheckpointError:
        """Make the error for a failure; one that is not about this object ends the averaging."""
        if failure.is_unreachable:
            url = self._reading.files.url(self._place[0])
            return CheckpointError(f"{url}: cannot be read: {failure}")
        return self.refusal("was deleted while it was read" if failure.is_missing else str(failure))

    def give_up(self) -> None:
        """Cancel what is read, and what is sent to the same store."""
        self._reading.files.give_up()

    def close(self) -> None:
        """Nothing is held open."""


class RemoteDirectory(SourceDirectory):
    """A prefix whose objects are the files of a checkpoint."""

    def __init__(  # a SourceDirectory that opens no descriptor
        self, reading: Reading, path: Path, entries: Collection[RemoteEntry]
    ) -> None:
        """Take a prefix as it was listed."""
        self._reading = reading
        self._entries = {entry.name: entry for entry in entries}
        self._files: dict[str, SourceFile] = {}
        self.path = self.owner = path
        self.descriptor = -1
        self.status = _status(0, stat.S_IFDIR | 0o700)
        self.names = frozenset(self._entries)

    def open(self, name: str) -> SourceFile:
        """Open an object directly below it; see `SourceDirectory.open`."""
        if not is_entry_name(name):
            raise self.refusal(f"{shown(name)} names no file inside of it")
        if name not in self._files:
            entry = self._entries.get(name)
            if entry is None or entry.is_directory:
                raise self.refusal(f"{name}: does not exist")
            self._files[name] = RemoteFile(self._reading, entry, inside=self)
        return self._files[name]

    def directory(self, name: str) -> SourceDirectory:
        """Refuse it: an average in a store is a list of objects of one directory."""
        raise self.refusal(
            f"{name}: a directory in a checkpoint, which is not read from an object store; average "
            "it from a file system"
        )

    def is_directory(self, name: str) -> bool:
        """Say no, so that directories in it are left out, and named."""
        del name
        return False

    def is_file(self, name: str) -> bool:
        """Whether there is an object of a name, not only some below it."""
        entry = self._entries.get(name)
        return entry is not None and not entry.is_directory

    def keep_open(self, kept: Collection[SourceFile]) -> None:
        """Nothing is held open."""

    def close(self) -> None:
        """Nothing is held open."""


def _identity(scheme: str, entry: RemoteEntry) -> FileIdentity:
    return FileIdentity(scheme, entry.path, entry.nbytes, entry.mtime_ns, entry.etag)


def _status(nbytes: int, mode: int) -> os.stat_result:
    """Make what a spooled copy of it takes owner and mode from: those of this process."""
    return os.stat_result((mode, 0, 0, 1, os.geteuid(), os.getegid(), nbytes, 0, 0, 0))
