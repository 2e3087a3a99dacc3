"""Checkpoints in a directory of a mounted file system, and the average published there."""

import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Generic, TypeVar

from tracksided.checkpoints.formats.base import OutputFile, OutputLayout
from tracksided.checkpoints.naming import DIRECTORY_PROVENANCE, provenance_name
from tracksided.checkpoints.placement import placement_for
from tracksided.checkpoints.provenance import intact_bytes, is_of, read_provenance
from tracksided.checkpoints.publish import Publication, commit_together, encode_json
from tracksided.checkpoints.publish_directory import DirectoryPublication
from tracksided.checkpoints.source import SourceDirectory, SourceFile
from tracksided.checkpoints.store import Entry, Home, Unpublished
from tracksided.checkpoints.sweeping import sweep
from tracksided.errors import CheckpointError, OutputError


class LocalStore:
    """`Store` of a directory."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __str__(self) -> str:
        return str(self.path)

    def home(self) -> Home:
        """Return itself, or what is around it where a trainer numbers what it finds in here.

        Raises:
            OutputError: a trainer does, and nothing is around it.
        """
        place = placement_for(self.path)
        if not place.sources_in:
            raise OutputError(
                f"{self}: Accelerate counts every name in it as a checkpoint, and nothing can lie "
                "beside it; save the checkpoints into a directory of their own"
            )
        store = self if place.directory == self.path else LocalStore(place.directory)
        return Home(store, place.prefix, place.sources_in)

    def entries(self) -> tuple[Entry, ...]:
        """Stat everything in it, following links; see `Store.entries`."""
        try:
            with os.scandir(self.path) as entries:
                names = [entry.name for entry in entries if not entry.name.startswith(".")]
        except OSError as error:
            raise CheckpointError(
                f"{self.path}: cannot be read: {error.strerror}; name the directory that holds the "
                "checkpoints"
            ) from error
        found: list[Entry] = []
        for name in names:
            path = self.path / name
            try:
                status = path.stat()
            except OSError:
                continue  # rotated away since it was listed
            is_directory = stat.S_ISDIR(status.st_mode)
            found.append(Entry(name, is_directory, (status.st_dev, status.st_ino)))
        return tuple(found)

    def written_at(self, entry: Entry) -> int:
        """Stat it."""
        try:
            return (self.path / entry.name).stat().st_mtime_ns
        except OSError:
            return 0

    def names_in(self, name: str) -> frozenset[str]:
        """List a directory; not readable or gone: opening it says so."""
        try:
            return frozenset(os.listdir(self.path / name))  # noqa: PTH208 - names only
        except OSError:
            return frozenset()

    def has_file(self, name: str) -> bool:
        """Whether something of that name is there."""
        return (self.path / name).exists()

    def open_file(self, name: str) -> SourceFile:
        """Open a file of it."""
        return SourceFile(self.path / name)

    def open_directory(self, name: str) -> SourceDirectory:
        """Open a directory of it."""
        return SourceDirectory(self.path / name)

    def provenance_of(self, output: str) -> Mapping[str, object] | None:
        """Read the JSON file beside a file, or in a directory."""
        return read_provenance(self.path / output)

    def bytes_of(self, output: str) -> int | None:
        """Stat it."""
        try:
            return intact_bytes(self.path / output)
        except OSError:
            return None

    def sweep(self) -> None:
        """Remove temporary outputs whose writers are gone."""
        sweep(self.path)

    @contextmanager
    def prepare(self, output: str, layout: OutputLayout) -> Iterator[Unpublished]:
        """Allocate it under a temporary name; see `Store.prepare`."""
        path = self.path / output
        if layout.directory_like is None:
            with Publication(path, layout.nbytes, layout.files[0].like) as file:
                yield _LocalFile(file)
            return
        is_own = is_of(read_provenance(path), output, is_directory=path.is_dir())
        if path.is_symlink() or (path.exists() and not is_own):
            raise OutputError(
                f"{path}: exists and is no average of trackside; move it, or choose another name"
            )
        with DirectoryPublication(path, layout.files, layout.directory_like) as directory:
            yield _LocalDirectory(directory)


_P = TypeVar("_P", bound=Publication | DirectoryPublication)


class _Local(Generic[_P]):
    """An output under a temporary name; its kinds differ in how they get their own."""

    def __init__(self, publication: _P) -> None:
        self._publication = publication
        self.targets = publication.targets
        self.paths = publication.paths
        self.whole = publication.temporary

    def sync(self) -> None:
        self._publication.sync()


class _LocalFile(_Local[Publication]):
    """A file, and its provenance beside it."""

    def __init__(self, publication: Publication) -> None:
        super().__init__(publication)
        self._was_free = not os.path.lexists(publication.path)

    def commit(self, provenance: Mapping[str, object]) -> None:
        encoded, path = encode_json(provenance), self._publication.path
        beside = path.with_name(provenance_name(path.name))
        to_be_free = (path, beside) if self._was_free else (beside,)
        taken = next((file for file in to_be_free if os.path.lexists(file)), None)
        if taken is not None and read_provenance(path) is None:
            raise OutputError(
                f"{taken}: came while the average was made, and is of no average of trackside; "
                "move it away, or choose another name"
            )
        with Publication(beside, len(encoded), self._publication.like) as other:
            other.targets[0].write(encoded, 0)
            commit_together((self._publication, other))


class _LocalDirectory(_Local[DirectoryPublication]):
    """A directory with its provenance in it."""

    def commit(self, provenance: Mapping[str, object]) -> None:
        encoded = encode_json(provenance)
        file = OutputFile(DIRECTORY_PROVENANCE, len(encoded), self._publication.likes[0])
        self._publication.add(file).write(encoded, 0)
        self._publication.commit()
