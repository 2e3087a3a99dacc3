"""The subset of zip that torch.save writes: stored records, zip64, nothing compressed.

End of file, from the back:

| bytes | what |
|---|---|
| 22 | end of central directory; no comment |
| 20 | zip64 locator (optional in small files) |
| 56 | zip64 end of central directory (optional in small files) |
| | central directory: 46 bytes + name + extra per record |
| | records: 30 bytes + name + extra, then the stored bytes |
"""

import struct
from dataclasses import dataclass

from tracksided.checkpoints.shown import shown
from tracksided.checkpoints.source import SourceFile
from tracksided.errors import CheckpointRefused

ALIGNMENT_BYTES = 64  # torch aligns what it writes, so that a mapped load is aligned
MAX_DIRECTORY_BYTES = 256 << 20  # 100,000 records need about 10 MB

_END_MAGIC, _END64_MAGIC, _LOCATOR_MAGIC = b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07"
_CENTRAL_MAGIC, _LOCAL_MAGIC = b"PK\x01\x02", b"PK\x03\x04"
_END = struct.Struct("<4s4H2IH")
_LOCATOR = struct.Struct("<4sIQI")
_END64 = struct.Struct("<4sQ2H2I4Q")
_BEFORE_SIZE_BYTES = 12  # of the zip64 end: its signature and the size, which counts the rest
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_LOCAL = struct.Struct("<4s5H3I2H")
_EXTRA = struct.Struct("<2H")
_ZIP64_EXTRA = 0x0001
_PADDING_EXTRA = 0x4246  # the id that torch's own padding carries
_FULL_16, _FULL_32 = 0xFFFF, 0xFFFFFFFF
_ENCRYPTED_FLAG = 0x0001
_UTF8_FLAG = 0x0800
_VERSION_ZIP64 = 45


@dataclass(frozen=True, slots=True)
class ZipRecord:
    """One stored record: its name without the archive's prefix is up to the reader."""

    name: str
    offset: int
    """Of its bytes, behind the local header."""

    nbytes: int
    crc32: int
    is_stored: bool
    """Neither compressed nor encrypted."""


@dataclass(frozen=True, slots=True)
class _Entry:
    """What the central directory says of a record."""

    name: str
    header_at: int
    nbytes: int
    crc32: int
    is_stored: bool


def read_directory(source: SourceFile) -> tuple[ZipRecord, ...]:
    """List all records, in the order of the directory, and prove that they are inside the file.

    Raises:
        CheckpointRefused: no zip file, truncated, or contradictory.
    """
    try:
        start, nbytes, count = _find_directory(source)
        entries = _parse_directory(source.read(start, nbytes), count)
        records = tuple(_locate(source, entry) for entry in entries)
    except (struct.error, UnicodeDecodeError, ValueError) as error:
        raise CheckpointRefused(f"its zip directory is damaged: {error}") from error
    _require_disjoint(records, start)
    return records


def _find_directory(source: SourceFile) -> tuple[int, int, int]:
    if source.nbytes < _END.size:
        raise CheckpointRefused(f"{source.nbytes} bytes are no checkpoint")
    end_at = source.nbytes - _END.size
    magic, *_, count, nbytes, start, comment_bytes = _END.unpack(source.read(end_at, _END.size))
    if magic != _END_MAGIC or comment_bytes:
        raise CheckpointRefused(
            "no zip directory at its end: incomplete, truncated, "
            "or written before torch 1.6 (legacy pickle)"
        )
    limit = end_at
    locator_at = end_at - _LOCATOR.size
    if locator_at >= _END64.size:
        magic, _, end64_at, _ = _LOCATOR.unpack(source.read(locator_at, _LOCATOR.size))
        if magic == _LOCATOR_MAGIC:
            if end64_at + _END64.size > locator_at:
                raise ValueError("the zip64 end lies outside the file")
            magic, *_, count, nbytes, start = _END64.unpack(source.read(end64_at, _END64.size))
            if magic != _END64_MAGIC:
                raise ValueError("the zip64 end has another signature")
            limit = end64_at
    if start + nbytes != limit:
        raise ValueError("the directory does not end where the file says")
    if nbytes > MAX_DIRECTORY_BYTES:
        raise ValueError(f"a directory of {nbytes} bytes is not read")
    return start, nbytes, count


def _parse_directory(directory: bytes, count: int) -> list[_Entry]:
    entries: list[_Entry] = []
    position = 0
    while position < len(directory):
        magic, _, _, flags, method, _, _, *rest = _CENTRAL.unpack_from(directory, position)
        crc, packed, nbytes, name_bytes, extra_bytes, comment_bytes, *_, offset = rest
        if magic != _CENTRAL_MAGIC:
            raise ValueError("an entry has another signature")
        name_at = position + _CENTRAL.size
        extra_at = name_at + name_bytes
        position = extra_at + extra_bytes + comment_bytes
        if position > len(directory):
            raise ValueError("an entry passes the directory's end")
        name = directory[name_at:extra_at].decode("utf-8")
        is_stored = method == 0 and not flags & _ENCRYPTED_FLAG
        wide = _zip64_fields(directory[extra_at : extra_at + extra_bytes])
        nbytes, packed, offset = (_widened(field, wide) for field in (nbytes, packed, offset))
        if is_stored and packed != nbytes:
            raise ValueError(f"record {shown(name)} has two sizes")
        entries.append(_Entry(name, offset, packed, crc, is_stored))
    if len(entries) != count:
        raise ValueError(f"{len(entries)} entries, {count} announced")
    if len({entry.name for entry in entries}) != count:
        raise ValueError("two records share a name")
    return entries


def _zip64_fields(extra: bytes) -> list[int]:
    """Return the 8-byte values of the zip64 extra field; none where there is no such field."""
    position = 0
    while position + _EXTRA.size <= len(extra):
        kind, nbytes = _EXTRA.unpack_from(extra, position)
        position += _EXTRA.size
        if kind == _ZIP64_EXTRA:
            body = extra[position : position + nbytes]
            return [value for (value,) in struct.iter_unpack("<Q", body[: len(body) // 8 * 8])]
        position += nbytes
    return []


def _widened(field: int, wide: list[int]) -> int:
    """Return what a field of 32 bits stands for: a full one for the next value of ``wide``."""
    if field != _FULL_32:
        return field
    if not wide:
        raise ValueError("a size or place is in a zip64 field that is not there")
    return wide.pop(0)


def _locate(source: SourceFile, entry: _Entry) -> ZipRecord:
    name = entry.name.encode()
    if entry.header_at + _LOCAL.size > source.nbytes:
        raise ValueError(f"record {shown(entry.name)} lies outside the file")
    header = source.read(entry.header_at, _LOCAL.size)
    magic, *_, name_bytes, extra_bytes = _LOCAL.unpack(header)
    if magic != _LOCAL_MAGIC or name_bytes != len(name):
        raise ValueError(f"record {shown(entry.name)} is not where the directory says")
    if source.read(entry.header_at + _LOCAL.size, len(name)) != name:
        raise ValueError(f"record {shown(entry.name)} has another name in its header")
    offset = entry.header_at + _LOCAL.size + name_bytes + extra_bytes
    return ZipRecord(entry.name, offset, entry.nbytes, entry.crc32, entry.is_stored)


def _require_disjoint(records: tuple[ZipRecord, ...], limit: int) -> None:
    end = 0
    for record in sorted(records, key=lambda record: (record.offset, record.nbytes)):
        if record.offset < end or record.offset + record.nbytes > limit:
            raise CheckpointRefused(
                f"record {shown(record.name)} overlaps another or passes the file's end"
            )
        end = record.offset + record.nbytes


@dataclass(frozen=True, slots=True)
class PlacedRecord:
    """A record of an archive to be written."""

    name: str
    header_at: int
    offset: int
    nbytes: int


def place_records(sizes: tuple[tuple[str, int], ...]) -> tuple[tuple[PlacedRecord, ...], int]:
    """Lay records out one after the other, aligned; return them and where the directory starts."""
    placed: list[PlacedRecord] = []
    position = 0
    for name, nbytes in sizes:
        fixed = _LOCAL.size + len(name.encode()) + len(_wide_sizes(nbytes)) + _EXTRA.size
        offset = -(-(position + fixed) // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
        placed.append(PlacedRecord(name, position, offset, nbytes))
        position = offset + nbytes
    return tuple(placed), position


def local_header(record: PlacedRecord, crc: int) -> bytes:
    """Write a record's header and the padding up to its bytes."""
    name = record.name.encode()
    wide = _wide_sizes(record.nbytes)
    size = _FULL_32 if wide else record.nbytes
    fixed = _LOCAL.size + len(name) + len(wide) + _EXTRA.size
    padding = record.offset - record.header_at - fixed
    header = _LOCAL.pack(
        _LOCAL_MAGIC,
        _VERSION_ZIP64 if wide else 0,
        _UTF8_FLAG,
        *(0, 0, 0),  # stored; no time, no date: equal inputs make equal outputs
        *(crc, size, size),
        *(len(name), len(wide) + _EXTRA.size + padding),
    )
    return header + name + wide + _EXTRA.pack(_PADDING_EXTRA, padding) + b"Z" * padding


def directory(records: tuple[PlacedRecord, ...], crcs: tuple[int, ...], start: int) -> bytes:
    """Write the central directory and the end of the file.

    Args:
        records: in the order in which they lie.
        crcs: CRC-32 of each.
        start: bytes from the start of the file to the directory.
    """
    entries = b"".join(
        _central_entry(record, crc) for record, crc in zip(records, crcs, strict=True)
    )
    count, nbytes = len(records), len(entries)
    end64 = _END64.pack(
        _END64_MAGIC,
        _END64.size - _BEFORE_SIZE_BYTES,
        *(_VERSION_ZIP64, _VERSION_ZIP64),
        *(0, 0),  # one disk
        *(count, count, nbytes, start),
    )
    locator = _LOCATOR.pack(_LOCATOR_MAGIC, 0, start + nbytes, 1)
    short = min(count, _FULL_16)
    end = _END.pack(_END_MAGIC, 0, 0, short, short, min(nbytes, _FULL_32), min(start, _FULL_32), 0)
    return entries + end64 + locator + end


def _central_entry(record: PlacedRecord, crc: int) -> bytes:
    name = record.name.encode()
    wide = b""
    size, offset = record.nbytes, record.header_at
    if size >= _FULL_32:
        wide += struct.pack("<2Q", size, size)
        size = _FULL_32
    if offset >= _FULL_32:
        wide += struct.pack("<Q", offset)
        offset = _FULL_32
    if wide:
        wide = _EXTRA.pack(_ZIP64_EXTRA, len(wide)) + wide
    version = _VERSION_ZIP64 if wide else 0
    entry = _CENTRAL.pack(
        _CENTRAL_MAGIC,
        *(version, version),
        *(_UTF8_FLAG, 0, 0, 0),  # as in the local header
        *(crc, size, size),
        *(len(name), len(wide), 0),
        *(0, 0, 0, offset),  # the first disk; no attributes
    )
    return entry + name + wide


def _wide_sizes(nbytes: int) -> bytes:
    if nbytes < _FULL_32:
        return b""
    return _EXTRA.pack(_ZIP64_EXTRA, 16) + struct.pack("<2Q", nbytes, nbytes)
