"""The archive that torch.save writes: one pickle, a record per storage, a few small ones."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from isal import isal_zlib

from tracksided.checkpoints.formats.inert_pickle import (
    MAX_PICKLE_BYTES,
    InertPickle,
    read_pickle,
)
from tracksided.checkpoints.formats.pickle_nodes import Node
from tracksided.checkpoints.formats.torch_entries import ModelPart
from tracksided.checkpoints.formats.torch_tensors import storages_below
from tracksided.checkpoints.formats.zip_container import ZipRecord, read_directory
from tracksided.checkpoints.shown import shown
from tracksided.checkpoints.source import SourceFile
from tracksided.errors import CheckpointRefused

ROOT_PICKLE = "data.pkl"
# Says that an archive is an average, under any name; loaders skip records they do not know.
MARK = ".trackside_average"

# They say that the places of storages can be computed: true of what torch itself wrote.
_LAYOUT_RECORDS = frozenset({".format_version", ".storage_alignment"})
_MAX_SMALL_BYTES = 1 << 20  # of version, byteorder and their like together; each has a few

FindModel: TypeAlias = Callable[[Node], ModelPart]


@dataclass(frozen=True, slots=True)
class Archive:
    """What a file of torch.save holds, apart from the bytes of its storages."""

    source: SourceFile
    prefix: str
    """The archive's name with its slash, in front of every record."""

    small_records: tuple[tuple[str, bytes], ...]
    """(name without prefix, bytes) of everything but the pickle, the storages, and what says how
    the file is laid out."""

    pickle: InertPickle
    pickle_bytes: int
    pickle_crc32: int
    """Computed."""

    part: ModelPart
    records: Mapping[str, ZipRecord]
    """All, by name without prefix."""

    has_crcs: bool
    is_average: bool

    def storages(self) -> dict[str, ZipRecord]:
        """Match every storage that the pickle names, by key, with its record.

        Those of what was taken out count, too: without them the file is not complete.

        Raises:
            CheckpointRefused: one has no record, or one of another size.
        """
        found: dict[str, ZipRecord] = {}
        seen: set[int] = set()
        for node in (self.pickle.root, *self.part.gone):
            for key, storage in storages_below(node, seen).items():
                record = self.records.get(f"data/{key}")
                if record is None or record.nbytes != storage.nbytes:
                    size = "none" if record is None else f"one of {record.nbytes}"
                    raise CheckpointRefused(
                        f"storage {shown(key)} needs {storage.nbytes} bytes, found {size}"
                    )
                found[key] = record
        return found

    def read(self, record: ZipRecord, limit: int) -> bytes:
        """Read a small record and compare it with its CRC-32.

        Raises:
            CheckpointRefused: it is longer than ``limit`` bytes, or corrupt.
        """
        return _read_checked(self.source, record, limit, has_crcs=self.has_crcs)


def read_archive(source: SourceFile, find: FindModel) -> Archive:
    """Read the zip directory, the pickle and the small records.

    Args:
        source: the file.
        find: tells which part of the pickle is the model.

    Raises:
        CheckpointRefused: it is something else, incomplete or not sane.
    """
    prefix, records, has_crcs = _open(source)
    small = _small_records(source, records, has_crcs=has_crcs)
    pickled = _read_checked(source, records[ROOT_PICKLE], MAX_PICKLE_BYTES, has_crcs=has_crcs)
    pickle = read_pickle(pickled)
    return Archive(
        source=source,
        prefix=prefix,
        small_records=small,
        pickle=pickle,
        pickle_bytes=len(pickled),
        pickle_crc32=isal_zlib.crc32(pickled),
        part=find(pickle.root),
        records=records,
        has_crcs=has_crcs,
        is_average=MARK in records,
    )


def read_object(source: SourceFile) -> Node:
    """Return the inert node of whatever was saved.

    Raises:
        CheckpointRefused: it is incomplete, corrupt or not sane.
    """
    _, records, has_crcs = _open(source)
    pickled = _read_checked(source, records[ROOT_PICKLE], MAX_PICKLE_BYTES, has_crcs=has_crcs)
    return read_pickle(pickled).root


def require_sound(source: SourceFile) -> None:
    """Compare all that was saved with its CRC-32, where it has any.

    Raises:
        CheckpointRefused: it is incomplete or corrupt.
    """
    _require_zip(source)
    records = read_directory(source)
    has_crcs = _has_crcs(records)
    for record in records:
        crc = source.crc32(record.offset, record.nbytes)
        if has_crcs and crc != record.crc32:
            raise _corrupt(record)


def _open(source: SourceFile) -> tuple[str, dict[str, ZipRecord], bool]:
    """Return prefix and records as in `Archive`, and whether these have a CRC-32."""
    _require_zip(source)
    prefix, records = _split_prefix(read_directory(source))
    return prefix, records, _has_crcs(records.values())


def _has_crcs(records: Iterable[ZipRecord]) -> bool:
    # set_crc32_options(False) stores zero everywhere; then there is nothing to check.
    return any(record.crc32 for record in records)


def _require_zip(source: SourceFile) -> None:
    head = source.read(0, min(8, source.nbytes))
    if head.startswith(b"PK\x03\x04"):
        return
    if not head:
        raise CheckpointRefused("empty")
    if head.startswith((b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")):
        raise CheckpointRefused(
            "a legacy pickle without zip; load it and save it again with "
            "torch.save of torch 1.6 or later"
        )
    raise CheckpointRefused("not a zip file of torch.save")


def _split_prefix(records: tuple[ZipRecord, ...]) -> tuple[str, dict[str, ZipRecord]]:
    prefix = records[0].name.partition("/")[0] + "/" if records else ""
    if any(not record.name.startswith(prefix) for record in records):
        raise CheckpointRefused("its records lie in more than one folder")
    archive = {record.name.removeprefix(prefix): record for record in records}
    if "constants.pkl" in archive or any(name.startswith("code/") for name in archive):
        raise CheckpointRefused("a TorchScript archive, not a state dict")
    packed = next((record.name for record in records if not record.is_stored), None)
    if packed is not None:
        raise CheckpointRefused(f"record {shown(packed)} is compressed or encrypted")
    if ROOT_PICKLE not in archive:
        raise CheckpointRefused(f"a zip file without {ROOT_PICKLE}")
    return prefix, archive


def _small_records(
    source: SourceFile, records: Mapping[str, ZipRecord], *, has_crcs: bool
) -> tuple[tuple[str, bytes], ...]:
    small: list[tuple[str, bytes]] = []
    left = _MAX_SMALL_BYTES
    for name, record in records.items():
        if name != ROOT_PICKLE and not name.startswith("data/"):
            small.append((name, _read_checked(source, record, left, has_crcs=has_crcs)))
            left -= record.nbytes
    if dict(small).get("byteorder", b"little") != b"little":
        raise CheckpointRefused("it was written on a big-endian machine")
    return tuple(entry for entry in small if entry[0] not in _LAYOUT_RECORDS)


def _read_checked(source: SourceFile, record: ZipRecord, limit: int, *, has_crcs: bool) -> bytes:
    if record.nbytes > limit:
        raise CheckpointRefused(
            f"record {shown(record.name)} has {record.nbytes} bytes, "
            f"more than the {limit} read here"
        )
    body = source.read(record.offset, record.nbytes)
    if has_crcs and isal_zlib.crc32(body) != record.crc32:
        raise _corrupt(record)
    return body


def _corrupt(record: ZipRecord) -> CheckpointRefused:
    return CheckpointRefused(f"record {shown(record.name)} is corrupt: its CRC-32 does not match")
