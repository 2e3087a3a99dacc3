"""Checkpoints below a prefix of a bucket, and the average published beside them."""

import tempfile
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from tracksided.checkpoints.formats.base import OutputLayout
from tracksided.checkpoints.formats.catalog import directory_format_of
from tracksided.checkpoints.placement import HERE
from tracksided.checkpoints.provenance import provenance_in
from tracksided.checkpoints.refusals import SourceRefused
from tracksided.checkpoints.remote.address import RemoteAddress
from tracksided.checkpoints.remote.files import RemoteEntry, RemoteFailure, RemoteFiles
from tracksided.checkpoints.remote.source import Reading, RemoteDirectory, RemoteFile
from tracksided.checkpoints.remote.upload import (
    SPOOL,
    RemotePlace,
    is_whole,
    provenance_path,
    spooled,
    streamed,
    written_objects,
)
from tracksided.checkpoints.remote.windows import Windows
from tracksided.checkpoints.source import SourceDirectory, SourceFile
from tracksided.checkpoints.store import Entry, Home, Unpublished
from tracksided.checkpoints.sweeping import sweep
from tracksided.errors import CheckpointError, OutputError


def open_remote_store(address: RemoteAddress, count: int) -> "RemoteStore":
    """Open a prefix; connects at the first request.

    Args:
        address: of the prefix.
        count: checkpoints that will be read at the same time.

    Raises:
        SettingsError: the package for it is missing.
    """
    return RemoteStore(RemoteFiles(address.scheme), address, count)


class RemoteStore:
    """`Store` of a prefix. What it lists it remembers: it serves one averaging."""

    def __init__(self, files: RemoteFiles, address: RemoteAddress, count: int) -> None:
        """List nothing yet; ``count`` checkpoints will be read at the same time."""
        self.path = Path(address.path)
        self._address = address
        self._files = files
        self._reading = Reading(
            files, Windows.for_small_reads(files), Windows.for_streams(files, count)
        )
        self._listed: dict[str, dict[str, RemoteEntry]] = {}

    def __str__(self) -> str:
        return str(self._address)

    def entries(self) -> tuple[Entry, ...]:
        """List the prefix; see `Store.entries`."""
        try:
            found = self._list("")
        except RemoteFailure as failure:
            reason = "does not exist, or is empty" if failure.is_missing else str(failure)
            raise CheckpointError(f"{self}: cannot be read: {reason}") from failure
        return tuple(
            Entry(entry.name, entry.is_directory, (entry.path,))
            for entry in found.values()
            if not entry.name.startswith(".")
        )

    def written_at(self, entry: Entry) -> int:
        """Return the time of an object, or of the newest in a directory, which has none itself."""
        if entry.is_directory:
            return max((inside.mtime_ns for inside in self._inside(entry.name).values()), default=0)
        listed = self._list("").get(entry.name)
        return 0 if listed is None else listed.mtime_ns

    def names_in(self, name: str) -> frozenset[str]:
        """List a directory of it."""
        return frozenset(self._inside(name))

    def has_file(self, name: str) -> bool:
        """Whether an object was listed."""
        return self._entry(name) is not None

    def home(self) -> Home:
        """Return itself: no trainer lists a bucket."""
        return Home(self, "", HERE)

    def open_file(self, name: str) -> SourceFile:
        """Open an object of it; see `Store.open_file`."""
        entry = self._entry(name)
        if entry is None:
            raise SourceRefused(self.path / name, "does not exist")
        return RemoteFile(self._reading, entry)

    def open_directory(self, name: str) -> SourceDirectory:
        """Open a directory of it."""
        return RemoteDirectory(self._reading, self.path / name, self._inside(name).values())

    def provenance_of(self, output: str) -> Mapping[str, object] | None:
        """Read the JSON file beside an object, or in a directory."""
        path = provenance_path(output, is_directory=self._is_directory(output))
        entry = self._entry(path)
        return None if entry is None else provenance_in(RemoteFile(self._reading, entry))

    def bytes_of(self, output: str) -> int | None:
        """Add up the objects of an output, if they are those that its JSON file lists."""
        provenance = self.provenance_of(output)
        entries = self._inside(output) if self._is_directory(output) else self._list("")
        if provenance is None or not is_whole(provenance, entries):
            return None
        if not self._is_directory(output):
            return entries[output].nbytes
        return sum(entries[name].nbytes for name in written_objects(provenance))

    def sweep(self) -> None:
        """Remove local spools of killed writers; the store removes unfinished uploads itself."""
        sweep(Path(tempfile.gettempdir()), SPOOL)

    def prepare(self, output: str, layout: OutputLayout) -> AbstractContextManager[Unpublished]:
        """Begin uploads, or local files for formats sealed at the end; see `Store.prepare`."""
        replaced = frozenset[str]()
        if layout.directory_like is not None and self._inside(output):
            replaced = self._replaced(output, [file.name for file in layout.files])
        place = RemotePlace(self._files, f"{self._address.path}/{output}", layout, replaced)
        return streamed(place) if layout.is_in_order else spooled(place)

    def _replaced(self, output: str, names: Sequence[str]) -> frozenset[str]:
        """Name what is there of the previous average in a directory.

        Raises:
            OutputError: it is none, or somebody else's object has one of the names to be.
        """
        provenance = self.provenance_of(output)
        if provenance is None:
            raise OutputError(
                f"{self}/{output}: exists and is no average of trackside; move it, or choose "
                "another name"
            )
        written = written_objects(provenance)
        # Weights may be of an average that was made by half.
        foreign = next(
            (
                name
                for name in names
                if name in self._inside(output)
                and name not in written
                and directory_format_of((name,)) is None
            ),
            None,
        )
        if foreign is not None:
            raise OutputError(
                f"{self}/{output}/{foreign}: exists, and no average wrote it; the new one has a "
                "file of that name: move it away"
            )
        return written

    def _is_directory(self, name: str) -> bool:
        entry = self._list("").get(name)
        return entry is not None and entry.is_directory

    def _inside(self, name: str) -> Mapping[str, RemoteEntry]:
        """List below a name; nothing where it is gone."""
        try:
            return self._list(name)
        except RemoteFailure as failure:
            if failure.is_missing:
                return {}
            raise CheckpointError(f"{self}/{name}: cannot be read: {failure}") from failure

    def _entry(self, name: str) -> RemoteEntry | None:
        """Return an object that was listed; ``directory/name`` is allowed."""
        directory, _, last = name.rpartition("/")
        entry = self._inside(directory).get(last)
        return None if entry is None or entry.is_directory else entry

    def _list(self, name: str) -> dict[str, RemoteEntry]:
        if name not in self._listed:
            path = f"{self._address.path}/{name}" if name else self._address.path
            self._listed[name] = {entry.name: entry for entry in self._files.list(path)}
        return self._listed[name]
