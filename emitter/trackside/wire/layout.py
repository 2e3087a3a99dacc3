"""Offsets, magic numbers, versions and checksums of the bytes in a segment.

A segment is one header page, the writer's hello and one byte ring. All numbers are
little-endian; a cursor is a count of bytes since the segment began, and ``cursor % capacity``
is its place in the ring.
``docs/wire-format.md`` explains the rules; this file is the only one that knows the bytes.

Header page, `HEADER_BYTES` long (unlisted bytes are zero):

====== ==== ======================================================================
offset size field
====== ==== ======================================================================
0      8    magic, ``TRKSRING``
8      4    wire version
12     4    bytes of the header page
16     8    capacity of the ring in bytes
24     8    creation time, Unix nanoseconds
32     4    bytes of the hello, which begins behind the header page
36     4    CRC-32 of the hello
64     184  file name, UTF-8, zero padded
252    4    CRC-32 of bytes 0 to 251
256    8    write cursor (writer)
264    8    reserved cursor (writer)
272    8    state: 0 open, 1 closed (writer)
384    128  drop counters, one word per `DropCause` (writer)
640    8    read cursor (reader)
====== ==== ======================================================================

The ring begins at the first multiple of `PAGE_BYTES` behind the hello.

Record header, `RECORD_HEADER_BYTES` long, at a multiple of `ALIGNMENT`:

====== ==== ======================================================================
offset size field
====== ==== ======================================================================
0      4    magic, ``TSRC``
4      2    kind: 0 pad, else `RecordKind`
6      2    zero
8      8    sequence number, from 1; a pad carries that of the record after it
16     8    the record's own start cursor
24     8    optimizer step
32     8    time of publishing, Unix nanoseconds
40     8    payload bytes (of a pad: bytes after its header)
48     4    metadata bytes
52     4    digest of the payload, see `trackside.wire.payload`
56     4    CRC-32 of the metadata
60     4    CRC-32 of bytes 0 to 59
====== ==== ======================================================================
"""

import os
import platform
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from trackside.errors import LayoutMismatch, SegmentRefused

MAGIC = b"TRKSRING"
WIRE_VERSION = 1  # docs/wire-format.md says under "Versions" when it rises
OTHER_VERSION = "wire version"
"""Stands in every refusal whose cause is another version, for those who name a mend."""

PAGE_BYTES = 4096
HEADER_BYTES = PAGE_BYTES  # the ring starts on a page of its own
MAX_HELLO_BYTES = 1 << 20  # settings of a run; a bound keeps a hostile length cheap to refuse
ALIGNMENT = 64  # a cache line; also what numpy and CUDA copies like best
MIN_CAPACITY_BYTES = 1024  # holds a record of a few fields; tests live with it
MAX_CAPACITY_BYTES = 1 << 40  # 1 TiB: far above any machine, far below overflow

STATE_OPEN = 0
STATE_CLOSED = 1

RECORD_MAGIC = 0x43525354  # b"TSRC"
RECORD_HEADER_BYTES = 64
PAD_KIND = 0

# Indices of 8-byte words in the header page. The reader's word is at least 128 bytes (two cache
# lines, which some processors fetch as a pair) away from every word that the writer stores.
WRITE_CURSOR_WORD = 256 // 8
RESERVED_CURSOR_WORD = 264 // 8
STATE_WORD = 272 // 8
DROPS_WORD = 384 // 8
READ_CURSOR_WORD = 640 // 8

MAX_NAME_BYTES = 184
_HEADER = struct.Struct("<8sIIQQII24x184s4xI")
_RECORD = struct.Struct("<IHHQQQQQIII")  # without the CRC
_CRC = struct.Struct("<I")
_VERSION = struct.Struct("<8sI")


class DropCause(IntEnum):
    """Why a sample, or what was logged, was not published.

    The value is its place among the drop counters.
    """

    RING_FULL = 0
    """The daemon is behind, stopped or absent."""

    TOO_LARGE = 1
    """The record would not fit an empty ring."""

    COPY_LATE = 2
    """A device-to-host copy was not done when it was due."""

    ERROR = 3
    """A hook raised."""

    OTHER = 4
    """There is no ring."""

    LOG_FULL = 5
    """Values or texts that the user logged: more than is kept between two records."""

    @property
    def label(self) -> str:
        """The cause as it is shown to users."""
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class SegmentHeader:
    """The part of the header page that never changes."""

    file_name: str
    capacity_bytes: int
    created_ns: int
    hello_bytes: int = 0
    hello_crc: int = 0

    @property
    def ring_start(self) -> int:
        """Offset in the file of the ring's first byte."""
        return HEADER_BYTES + -(-self.hello_bytes // PAGE_BYTES) * PAGE_BYTES

    @property
    def file_bytes(self) -> int:
        """Size of the whole file."""
        return self.ring_start + self.capacity_bytes


class RecordHeader(NamedTuple):
    """The fixed part of a record; see the table above. Made in every publish, hence a tuple."""

    kind: int
    sequence: int
    start: int
    step: int
    time_ns: int
    payload_bytes: int
    metadata_bytes: int
    payload_digest: int
    metadata_crc: int

    @property
    def metadata_start(self) -> int:
        """Cursor of the first byte of metadata."""
        return self.start + RECORD_HEADER_BYTES

    @property
    def payload_start(self) -> int:
        """Cursor of the first byte of payload."""
        return self.metadata_start + align(self.metadata_bytes)

    @property
    def end(self) -> int:
        """Cursor of the first byte after the record."""
        return self.payload_start + align(self.payload_bytes)


def align(num_bytes: int) -> int:
    """Round up to a multiple of `ALIGNMENT`."""
    return (num_bytes + ALIGNMENT - 1) & -ALIGNMENT


def pack_segment_header(header: SegmentHeader) -> bytes:
    """Build the whole header page of an empty, open segment.

    Raises:
        ValueError: its name has more than `MAX_NAME_BYTES`.
    """
    name = header.file_name.encode()
    if len(name) > MAX_NAME_BYTES:
        raise ValueError(f"segment name {header.file_name!r} has more than {MAX_NAME_BYTES} bytes")
    fixed = _HEADER.pack(
        MAGIC,
        WIRE_VERSION,
        HEADER_BYTES,
        header.capacity_bytes,
        header.created_ns,
        header.hello_bytes,
        header.hello_crc,
        name,
        0,
    )[: -_CRC.size]
    return (fixed + _CRC.pack(zlib.crc32(fixed))).ljust(HEADER_BYTES, b"\0")


def parse_segment_header(page: bytes, file_name: str, file_bytes: int) -> SegmentHeader:
    """Check the unchanging part of a header page.

    Args:
        page: at least the first `HEADER_BYTES` of the file.
        file_name: of the segment, as found on disk.
        file_bytes: size of the file.

    Raises:
        LayoutMismatch: another wire version.
        SegmentRefused: not a segment, damaged, or not the one its name says.
    """
    refused = f"segment {file_name!r} refused:"
    if len(page) < HEADER_BYTES:
        raise SegmentRefused(f"{refused} {file_bytes} bytes are too few for a header page")
    magic, version = _VERSION.unpack_from(page)
    if magic != MAGIC:
        raise SegmentRefused(f"{refused} magic is {magic!r}, expected {MAGIC!r}")
    if version != WIRE_VERSION:
        raise LayoutMismatch(
            f"{refused} {OTHER_VERSION} {version}, this side reads {WIRE_VERSION}; "
            "upgrade the older of trainer and daemon"
        )
    _, _, header_bytes, capacity, created_ns, hello_bytes, hello_crc, raw_name, crc = (
        _HEADER.unpack_from(page)
    )
    if crc != zlib.crc32(page[: _HEADER.size - _CRC.size]):
        raise SegmentRefused(f"{refused} its header does not match its checksum")
    name = raw_name.rstrip(b"\0").decode(errors="replace")
    if name != file_name:
        raise SegmentRefused(f"{refused} it was written as {name!r}")
    header = SegmentHeader(name, capacity, created_ns, hello_bytes, hello_crc)
    is_sane = MIN_CAPACITY_BYTES <= capacity <= MAX_CAPACITY_BYTES and capacity % ALIGNMENT == 0
    if header_bytes != HEADER_BYTES or hello_bytes > MAX_HELLO_BYTES or not is_sane:
        raise SegmentRefused(
            f"{refused} header of {header_bytes}, hello of {hello_bytes}, ring of {capacity} bytes"
        )
    if file_bytes != header.file_bytes:
        raise SegmentRefused(
            f"{refused} file has {file_bytes} bytes, its header says {header.file_bytes}"
        )
    return header


def pack_record_header(header: RecordHeader) -> bytes:
    """Build the 64 bytes in front of a record's metadata."""
    fixed = _RECORD.pack(RECORD_MAGIC, header.kind, 0, *header[1:])
    return fixed + _CRC.pack(zlib.crc32(fixed))


def parse_record_header(ring: memoryview, start: int, limit: int) -> RecordHeader | None:
    """Read the record header at cursor ``start``, trusting nothing.

    Args:
        ring: the bytes of the ring, without the header page.
        start: an aligned cursor.
        limit: the write cursor: no record ends beyond it.

    Returns:
        The header of a record that lies wholly inside the ring, or None where there is none.
    """
    offset = start % len(ring)
    fixed = bytes(ring[offset : offset + _RECORD.size])
    magic, kind, _, sequence, own_start, step, time_ns, payload, metadata, digest, metadata_crc = (
        _RECORD.unpack(fixed)
    )
    (crc,) = _CRC.unpack_from(ring, offset + _RECORD.size)
    if magic != RECORD_MAGIC or own_start != start or crc != zlib.crc32(fixed):
        return None
    header = RecordHeader(
        kind, sequence, start, step, time_ns, payload, metadata, digest, metadata_crc
    )
    is_inside = header.end <= limit and offset + header.end - start <= len(ring)
    return header if is_inside else None


def read_drops(words: memoryview) -> dict[str, int]:
    """Return the nonzero drop counters by label, from the header page as 8-byte words."""
    counts = ((cause.label, words[DROPS_WORD + cause]) for cause in DropCause)
    return {label: count for label, count in counts if count}


def _keep_order() -> None:
    """Do nothing: x86-64 keeps stores in order among stores, and loads among loads."""


# Elsewhere a fence stands between a record's bytes and the cursor that announces them. Entering
# the kernel's scheduler is a full memory barrier (smp_mb__after_spinlock in __schedule), and the
# only one that Python reaches without a compiler.
fence: Callable[[], None] = (
    _keep_order if platform.machine() in {"x86_64", "AMD64"} else os.sched_yield
)
