"""Publish an average in an object store, which has no rename.

Objects are uploaded in parts that nobody sees. When all are there they are made visible, one
right after the other, and last the JSON file, which lists every object with size and ETag. An
average is whole where all of them match: `is_whole`.
"""

import contextlib
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tracksided.checkpoints.formats.base import OutputFile, OutputLayout
from tracksided.checkpoints.naming import DIRECTORY_PROVENANCE, provenance_name
from tracksided.checkpoints.publish import encode_json
from tracksided.checkpoints.publish_directory import DirectoryPublication
from tracksided.checkpoints.remote.files import RemoteEntry, RemoteFailure, RemoteFiles
from tracksided.checkpoints.source import SourceFile
from tracksided.checkpoints.writeback import Target
from tracksided.errors import OutputError

logger = logging.getLogger(__name__)

OBJECTS = "objects"  # key of the list in the JSON file
SPOOL = "trackside-spool"

_MAX_PARTS = 9000  # S3 takes 10,000
_PART_BYTES = 8 << 20  # S3 takes no less than 5 MiB; each is held in memory twice
_PART_STEP = 1 << 20  # Google wants multiples of 256 KiB


class UploadTarget:
    """An object of an output, written from front to back. One thread writes."""

    def __init__(self, files: RemoteFiles, path: str, nbytes: int) -> None:
        """Begin the upload; raises OutputError."""
        self.path = path
        self._files = files
        self._nbytes = nbytes
        self._position = 0
        with self._uploading():
            self._upload = files.upload(path, part_bytes(nbytes))
        if nbytes == 0:
            self._close()

    def write(self, content: bytes | memoryview, offset: int) -> None:
        """Append.

        Raises:
            OutputError: the store does not take it.
            ValueError: something else comes next than what was written last.
        """
        if offset != self._position:
            raise ValueError(f"written at {offset} while {self._position} is next")
        with self._uploading():
            self._files.require_wanted()
            self._upload.write(content)
        self._position += len(content)
        if self._position == self._nbytes:
            self._close()

    def begin_writeback(self, offset: int, nbytes: int) -> None:
        """Nothing to do: parts are sent as they fill."""

    def sync(self) -> None:
        """Nothing to do: what is not sent is sent by the last write."""

    def commit(self) -> RemoteEntry:
        """Make the object visible, and return what it is now.

        Raises:
            OutputError: the store did not take it, or took something else.
        """
        with self._uploading():
            self._upload.commit()
            entry = self._files.look(self.path)
        if entry.nbytes != self._nbytes:
            raise OutputError(
                f"{self._files.url(self.path)}: {entry.nbytes} bytes arrived of {self._nbytes}"
            )
        return entry

    def discard(self) -> None:
        """Forget the parts; where the store is out of reach, it keeps them for its own rule."""
        try:
            with self._files.reached():
                self._upload.discard()
                self._upload.closed = True  # or its finalizer sends a buffer that is gone
        except RemoteFailure as failure:
            logger.warning("%s: parts are left behind: %s", self._files.url(self.path), failure)

    def _close(self) -> None:
        with self._uploading():
            self._upload.close()

    @contextlib.contextmanager
    def _uploading(self) -> Iterator[None]:
        try:
            with self._files.reached():
                yield
        except RemoteFailure as failure:
            raise OutputError(
                f"{self._files.url(self.path)}: upload failed: {failure}; the previous average "
                "stays"
            ) from failure


@dataclass(frozen=True, slots=True)
class RemotePlace:
    """Where an output will be, and of what."""

    files: RemoteFiles
    path: str
    layout: OutputLayout
    replaced: frozenset[str]
    """Names of the objects of the previous average, where it is a directory."""


@contextlib.contextmanager
def streamed(place: RemotePlace) -> Iterator["StreamedOutput"]:
    """Upload an output while it is written; raises OutputError."""
    with _appearing(place) as appearance:
        yield StreamedOutput(appearance)


@contextlib.contextmanager
def spooled(place: RemotePlace) -> Iterator["SpooledOutput"]:
    """Write an output to a local file first, because its format is sealed at the end.

    Raises:
        OutputError: there is no room for it.
    """
    local = Path(tempfile.gettempdir()) / SPOOL
    named = [replace(f, name=f.name or place.path.rpartition("/")[2]) for f in place.layout.files]
    try:
        spool = DirectoryPublication(local, named, place.layout.files[0].like)
    except OutputError as error:
        raise OutputError(f"{error}; set TMPDIR to a place with more room") from error
    with spool, _appearing(place) as appearance:
        yield SpooledOutput(appearance, spool)


class StreamedOutput:
    """An output that is uploaded while it is written."""

    def __init__(self, appearance: "_Appearance") -> None:
        """Begin all uploads; raises OutputError."""
        self.paths: Sequence[Path] = ()
        self.whole: Path | None = None
        self._appearance = appearance
        self.targets: Sequence[Target] = appearance.begin()

    def sync(self) -> None:
        """Nothing to do: every object was closed by its last write."""

    def commit(self, provenance: Mapping[str, object]) -> None:
        """Make it visible, the JSON file last."""
        self._appearance.commit(provenance)


class SpooledOutput:
    """An output in local files, which are uploaded when they are complete."""

    def __init__(self, appearance: "_Appearance", spool: DirectoryPublication) -> None:
        self._appearance = appearance
        self._spool = spool
        self.targets: Sequence[Target] = spool.targets
        self.paths: Sequence[Path] = spool.paths
        self.whole: Path | None = spool.temporary if appearance.is_directory else spool.paths[0]

    def sync(self) -> None:
        """Wait until it is on the local disk."""
        self._spool.sync()

    def commit(self, provenance: Mapping[str, object]) -> None:
        """Upload everything, then make it visible, the JSON file last."""
        for target, path in zip(self._appearance.begin(), self.paths, strict=True):
            _send(path, target)
        self._appearance.commit(provenance)


@contextlib.contextmanager
def _appearing(place: RemotePlace) -> Iterator["_Appearance"]:
    appearance = _Appearance(place)
    try:
        yield appearance
    finally:
        appearance.end()


class _Appearance:
    """The objects of an output, from the begin of their upload until they are visible."""

    def __init__(self, place: RemotePlace) -> None:
        self._files = place.files
        self._path = place.path
        self._replaced = place.replaced
        self.is_directory = place.layout.directory_like is not None
        self._layout = place.layout
        self._pending: list[UploadTarget] = []

    def begin(self) -> tuple[UploadTarget, ...]:
        """Begin the upload of every file of the layout."""
        for file in self._layout.files:
            self._pending.append(UploadTarget(self._files, self._object(file), file.nbytes))
        return tuple(self._pending)

    def commit(self, provenance: Mapping[str, object]) -> None:
        """Make the objects visible, then say in the JSON file what they are."""
        objects: list[dict[str, object]] = []
        while self._pending:
            entry = self._completed(self._pending[0], num_done=len(objects))
            self._pending.pop(0)
            objects.append({"name": entry.name, "bytes": entry.nbytes, "etag": entry.etag})
        self._put({**provenance, OBJECTS: objects})
        if self.is_directory:
            self._remove(self._replaced - {str(entry["name"]) for entry in objects})

    def _completed(self, target: UploadTarget, *, num_done: int) -> RemoteEntry:
        try:
            return target.commit()
        except OutputError as error:
            if num_done == 0:
                raise
            raise OutputError(
                f"{self._files.url(self._path)}: half made: {num_done} of its files are new, the "
                f"others are those of the previous average; average again ({error.__cause__})"
            ) from error

    def end(self) -> None:
        """Forget what is not visible."""
        for target in self._pending:
            target.discard()
        self._pending.clear()

    def _object(self, file: OutputFile) -> str:
        return f"{self._path}/{file.name}" if self.is_directory else self._path

    def _put(self, content: Mapping[str, object]) -> None:
        path = provenance_path(self._path, is_directory=self.is_directory)
        try:
            self._files.put(path, encode_json(content))
        except RemoteFailure as failure:
            raise OutputError(
                f"{self._files.url(path)}: cannot be written: {failure}; the average beside it is "
                "new and whole, but nothing says so"
            ) from failure

    def _remove(self, names: frozenset[str]) -> None:
        """Remove what the previous average had besides, such as more shards."""
        try:
            for entry in self._files.list(self._path):
                if entry.name in names and not entry.is_directory:
                    self._files.remove(entry.path)
        except RemoteFailure as failure:
            logger.warning("%s: old files are left: %s", self._files.url(self._path), failure)


def provenance_path(path: str, *, is_directory: bool) -> str:
    """Return the path of the JSON file of an output."""
    if is_directory:
        return f"{path}/{DIRECTORY_PROVENANCE}"
    parent, slash, name = path.rpartition("/")
    return f"{parent}{slash}{provenance_name(name)}"


def is_whole(provenance: Mapping[str, object], entries: Mapping[str, RemoteEntry]) -> bool:
    """Whether the objects that are there are those that a JSON file lists.

    Args:
        provenance: as it was read.
        entries: what lies beside or in the output, by name.
    """
    listed = provenance.get(OBJECTS)
    if not isinstance(listed, list) or not listed:
        return False
    for known in listed:
        match known:
            case {"name": str(name), "bytes": int(nbytes), "etag": str(etag)} if name in entries:
                if (entries[name].nbytes, entries[name].etag) != (nbytes, etag):
                    return False
            case _:
                return False
    return True


def written_objects(provenance: Mapping[str, object]) -> frozenset[str]:
    """Return the names of the objects that a JSON file lists."""
    listed = provenance.get(OBJECTS)
    entries = listed if isinstance(listed, list) else []
    return frozenset(
        entry["name"]
        for entry in entries
        if isinstance(entry, dict) and isinstance(entry.get("name"), str)
    )


def part_bytes(nbytes: int) -> int:
    """Return the size of parts in which an object of a size fits the number that is allowed."""
    needed = -(-nbytes // _MAX_PARTS)
    return max(_PART_BYTES, -(-needed // _PART_STEP) * _PART_STEP)


def _send(path: Path, target: Target) -> None:
    source = SourceFile(path)
    try:
        for position, block in source.blocks(0, source.nbytes):
            target.write(block, position)
    finally:
        source.close()
