"""Finds intact records among bytes that may be damaged, and counts what is lost.

A record is trusted in steps: its header by a CRC, its own start cursor and the sequence number
that must come next; its length by the bounds of the ring; its metadata and payload by checksums.
After a damaged header the search goes on at every multiple of `ALIGNMENT`. Each byte is looked
at a bounded number of times, whatever it holds.
"""

import zlib
from dataclasses import dataclass

import numpy as np

from trackside.errors import RecordCorrupt
from trackside.wire.layout import (
    ALIGNMENT,
    PAD_KIND,
    RECORD_HEADER_BYTES,
    RECORD_MAGIC,
    RecordHeader,
    parse_record_header,
)
from trackside.wire.payload import digest_of
from trackside.wire.records import RecordKind

_KINDS = {int(kind): kind for kind in RecordKind}


@dataclass(frozen=True, slots=True)
class Record:
    """A record as it lies in the ring; the views are read-only.

    Whoever commits `end` allows the writer to overwrite the bytes behind the views.
    """

    kind: RecordKind
    step: int
    sequence: int
    time_ns: int
    """When it was published, Unix nanoseconds."""

    metadata: memoryview
    payload: memoryview
    start: int
    """Cursor of the record's first byte: what `RingReader.read_at` takes."""

    end: int
    """Cursor after the record: what `RingReader.commit` takes."""


class RecordScanner:
    """Walks the records of a ring from a start position; remembers where it is."""

    def __init__(self, ring: memoryview, position: int) -> None:
        """Start at the cursor ``position``, over the bytes of the ring without its header page."""
        self.position = position
        self.skipped: list[tuple[int, int]] = []
        """Start and end of what was passed and holds no record, until the caller takes them."""

        self._ring = ring
        # A walk that begins in the middle takes the first number as it comes.
        self._expected: int | None = 1 if position == 0 else None
        self._corrupt_records = 0
        self._damage_start: int | None = None

    @property
    def corrupt_records(self) -> int:
        """Records passed that were damaged; damage that did not end yet counts as one."""
        return self._corrupt_records + (self._damage_start is not None)

    def next(self, limit: int) -> Record | None:
        """Return the next intact record below the write cursor ``limit``."""
        while self.position < limit:
            header = parse_record_header(self._ring, self.position, limit)
            if header is None or not self._is_next(header):
                self._pass_damage(limit)
                continue
            self._end_damage(header)
            is_pad = header.kind == PAD_KIND
            self.position = header.end
            self._expected = header.sequence + (not is_pad)
            record = None if is_pad else _intact(self._ring, header)
            if record is not None:
                return record
            self._corrupt_records += not is_pad
            self.skipped.append((header.start, header.end))
        return None

    def _is_next(self, header: RecordHeader) -> bool:
        """Check the sequence number: no more records are missing than the damage can hold."""
        if self._expected is None:
            return header.sequence > 0
        damaged = 0 if self._damage_start is None else self.position - self._damage_start
        return 0 <= header.sequence - self._expected <= damaged // ALIGNMENT

    def _pass_damage(self, limit: int) -> None:
        """Go to the next place where a header's magic stands, or to ``limit``."""
        start = self.position
        if self._damage_start is None:
            self._damage_start = start
        capacity = len(self._ring)
        lap_end = min(limit, start - start % capacity + capacity)
        first = start % capacity + ALIGNMENT
        words = np.frombuffer(self._ring, dtype="<u4")
        heads = words[first // 4 : first // 4 + (lap_end - start - ALIGNMENT) // 4]
        hits = np.flatnonzero(heads[:: ALIGNMENT // 4] == RECORD_MAGIC)
        self.position = start + ALIGNMENT * (1 + int(hits[0])) if len(hits) else lap_end
        self.skipped.append((start, self.position))

    def _end_damage(self, header: RecordHeader) -> None:
        if self._damage_start is None:
            return
        missing = 1 if self._expected is None else header.sequence - self._expected
        self._corrupt_records += max(missing, 1)
        self._damage_start = None


def read_record(ring: memoryview, start: int, limit: int) -> Record:
    """Return the record at a cursor.

    Args:
        ring: all bytes of the ring, without the header of the segment.
        start: cursor of the record, in bytes since the first one.
        limit: cursor behind the newest record.

    Raises:
        RecordCorrupt: no intact record begins there.
    """
    header = parse_record_header(ring, start, limit)
    record = None if header is None else _intact(ring, header)
    if record is None:
        raise RecordCorrupt(f"no intact record at cursor {start}")
    return record


def _intact(ring: memoryview, header: RecordHeader) -> Record | None:
    """View a record; None where its kind is unknown or a checksum does not match."""
    kind = _KINDS.get(header.kind)
    offset = header.start % len(ring)
    metadata_at = offset + RECORD_HEADER_BYTES
    payload_at = offset + header.payload_start - header.start
    metadata = ring[metadata_at : metadata_at + header.metadata_bytes]
    payload = ring[payload_at : payload_at + header.payload_bytes]
    is_intact = (
        kind is not None
        and zlib.crc32(metadata) == header.metadata_crc
        and digest_of(payload) == header.payload_digest
    )
    if kind is None or not is_intact:
        return None
    return Record(
        kind=kind,
        step=header.step,
        sequence=header.sequence,
        time_ns=header.time_ns,
        metadata=metadata,
        payload=payload,
        start=header.start,
        end=header.end,
    )
