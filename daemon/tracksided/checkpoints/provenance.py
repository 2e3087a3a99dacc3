"""The JSON file beside or in an average: what it was made of."""

import os
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from tracksided.checkpoints.json_source import read_json
from tracksided.checkpoints.naming import DIRECTORY_PROVENANCE, provenance_name
from tracksided.checkpoints.policy import BestBy
from tracksided.checkpoints.refusals import SourceRefused
from tracksided.checkpoints.source import SourceFile, is_entry_name

MAX_BYTES = 16 << 20  # far above any that is written here
KIND = "trackside checkpoint average"
SCHEMA = 1
SOURCES_IN = "sources_in"  # not in those that were written before there was a choice


@dataclass(frozen=True, slots=True)
class SourceRecord:
    """One checkpoint that went into an average."""

    name: str
    """Of its file or directory."""

    step: int | None
    """None where it is not known."""

    bytes: int
    """Of all its files that hold tensors."""

    mtime_ns: int
    """When the last of them was written, Unix time in nanoseconds."""

    digest: str
    """Of what was read of it: algorithm, colon, hexadecimal digits."""

    verified: bool
    """Whether the file stated checksums that were checked."""

    weight: float
    """In the sum; all weights sum to 1."""

    metric: float | None
    """What it was chosen by, where that was a metric."""


@dataclass(frozen=True, slots=True)
class Skipped:
    """A file that was not used, and why."""

    name: str
    """Of its file or directory."""

    reason: str
    """In words for the user."""

    is_copy: bool = False
    """Nothing is wrong with it: another one holds the same, or it belongs to another series."""

    may_heal: bool = False
    """The system refused to read it, as it may not do later."""

    @classmethod
    def of(cls, error: SourceRefused) -> Self:
        """Take what was said of a checkpoint.

        Args:
            error: that cost it its place.
        """
        reason_may_pass = isinstance(error.__cause__, OSError)
        return cls(error.path.name, error.reason, may_heal=reason_may_pass)


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """Everything about one average. Sources are listed from oldest to newest."""

    output: str
    """Name of the average."""

    sources_in: str
    """Where the sources are, as seen from the directory that holds the average: mostly ``.``."""

    output_bytes: int
    """Of all its files."""

    files: tuple[str, ...]
    """Names of its files, ``directory/name`` for some; others may lie beside them."""

    carried: Mapping[str, str]
    """Name to checksum of those that were taken over as they are, as `stated_crc32` writes it."""

    output_digest: str
    """Of its content: algorithm, colon, hexadecimal digits."""

    format: str
    """Name of the format of sources and output."""

    method: str
    """How the weights were made."""

    best: BestBy | None
    """What the sources were chosen by; None: they are the newest."""

    step: int | None
    """Of the newest source."""

    sources: tuple[SourceRecord, ...]
    """What went into the average."""

    skipped: tuple[Skipped, ...]
    """What did not, and why."""

    dropped: tuple[str, ...]
    """Entries of the newest checkpoint that the average leaves out."""

    ranks: int
    """Processes that shared the work."""

    seconds: float
    """Wall time from listing to publishing."""

    created: str
    """UTC, ISO 8601."""

    version: str
    """Of trackside."""

    def to_json(self) -> dict[str, object]:
        """Return what is written to disk."""
        return {"kind": KIND, "schema": SCHEMA, **asdict(self)}


def provenance_path(output: Path) -> Path:
    """Return where the provenance of an output is: beside a file, inside of a directory."""
    if output.is_dir():
        return output / DIRECTORY_PROVENANCE
    return output.with_name(provenance_name(output.name))


def read_provenance(output: Path) -> Mapping[str, object] | None:
    """Return the provenance of an output; None where there is none that can be read."""
    try:
        source = SourceFile(provenance_path(output))
    except SourceRefused:
        return None
    with closing(source):
        return provenance_in(source)


def provenance_in(source: SourceFile) -> Mapping[str, object] | None:
    """Return what a JSON file says; None where it cannot be read, or is no provenance."""
    try:
        parsed = read_json(source, MAX_BYTES)
    except SourceRefused:
        return None
    return parsed if isinstance(parsed, dict) and parsed.get("kind") == KIND else None


def written_files(provenance: Mapping[str, object]) -> frozenset[str] | None:
    """Return the names of the files that an average wrote; None where it does not say so."""
    listed = provenance.get("files")
    if not isinstance(listed, list):
        return None
    return frozenset(name for name in listed if isinstance(name, str) and _is_inside(name))


def carried_checksums(provenance: Mapping[str, object]) -> Mapping[str, str]:
    """Return what files held that went along with an average, by name; empty if it does not say."""
    listed = provenance.get("carried")
    if not isinstance(listed, dict):
        return {}
    return {name: stated for name, stated in listed.items() if isinstance(stated, str)}


def stated_crc32(crc: int) -> str:
    """Write a checksum as the description of an average states it."""
    return f"crc32:{crc:08x}"


def _is_inside(name: str) -> bool:
    """Whether a name is that of an entry, or of one in a directory that is an entry."""
    directory, _, last = name.rpartition("/")
    return is_entry_name(last) and (not directory or is_entry_name(directory))


def is_of(provenance: Mapping[str, object] | None, name: str, *, is_directory: bool) -> bool:
    """Whether a file or directory is the average that the provenance at its place describes.

    A directory is one under any name, because its provenance moves with it.

    Args:
        provenance: as `read_provenance` returns it.
        name: of the file or directory.
        is_directory: which of both it is.
    """
    return provenance is not None and (is_directory or provenance.get("output") == name)


def describes(
    provenance: Mapping[str, object],
    output: tuple[str, int | None],
    method: str,
    sources: Sequence[tuple[str, int, int]],
) -> bool:
    """Whether an output is already made of exactly these sources.

    Args:
        provenance: the JSON file of the output.
        output: (name, bytes); None where it is not there.
        method: its weights, as the file calls them.
        sources: (name, bytes, mtime_ns) of each, in order.
    """
    listed = provenance.get("sources")
    if not isinstance(listed, list) or provenance.get("method") != method:
        return False
    known = [
        (entry.get("name"), entry.get("bytes"), entry.get("mtime_ns"))
        for entry in listed
        if isinstance(entry, dict)
    ]
    is_intact = (provenance.get("output"), provenance.get("output_bytes")) == output
    return is_intact and known == list(sources)


def intact_bytes(output: Path) -> int | None:
    """Return the bytes of a file, or of those files of a directory which the average wrote.

    The provenance is written last. None where a file was written to after it: that is not the
    average any more, though the size may be the same.

    Raises:
        OSError: the output, one of its files, or its provenance is not there.
    """
    described_at = provenance_path(output).stat().st_mtime_ns
    if output.is_dir():
        written = written_files(read_provenance(output) or {})
        names = set(os.listdir(output)) if written is None else written  # noqa: PTH208 - names only
        parts = [(output / name).stat() for name in names - {DIRECTORY_PROVENANCE}]
    else:
        parts = [output.stat()]
    if any(part.st_mtime_ns > described_at for part in parts):
        return None
    return sum(part.st_size for part in parts)
