"""The ring: one producer publishes records, one consumer reads them, nobody waits.

`RingWriter` belongs to one rank, `RingReader` to the daemon. Each cursor has one owner: the
writer stores the write cursor when a record is complete, the reader stores the read cursor when
a record is durable elsewhere. A full ring drops the new record and counts it.
"""

import mmap
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from trackside.errors import RecordCorrupt, SegmentRefused
from trackside.wire import segment
from trackside.wire.layout import (
    ALIGNMENT,
    DIGEST_BLOCK_BYTES,
    DROPS_WORD,
    HEADER_BYTES,
    PAD_KIND,
    READ_CURSOR_WORD,
    RECORD_HEADER_BYTES,
    RESERVED_CURSOR_WORD,
    STATE_CLOSED,
    STATE_WORD,
    WRITE_CURSOR_WORD,
    DropCause,
    PayloadDigest,
    RecordHeader,
    SegmentHeader,
    align,
    fence,
    pack_record_header,
    parse_record_header,
)
from trackside.wire.records import RecordKind
from trackside.wire.segment import SegmentName

_KINDS = {int(kind): kind for kind in RecordKind}
_ZEROS = bytes(ALIGNMENT)


class PublishResult(Enum):
    """What became of a record."""

    PUBLISHED = "published"
    RING_FULL = "ring_full"
    """Dropped and counted: the daemon has not made room yet."""

    TOO_LARGE = "too_large"
    """Dropped and counted: it would not fit an empty ring."""

    INACTIVE = "inactive"
    """The ring is closed, or this process is a fork of the one that made it."""


@dataclass(frozen=True, slots=True)
class Record:
    """A record as it lies in the ring; the views are read-only and end with the record's life.

    Whoever commits `end` allows the writer to overwrite the bytes behind the views.
    """

    kind: RecordKind
    step: int
    sequence: int
    time_ns: int
    metadata: memoryview
    payload: memoryview
    start: int
    """Cursor of the record's first byte: what `RingReader.read_at` takes."""

    end: int
    """Cursor after the record: what `RingReader.commit` takes."""


class RingWriter:
    """The producer's end. One thread at a time; a forked child's calls do nothing."""

    def __init__(
        self, path: Path, memory: mmap.mmap, lock: segment.AliveLock, clock: Callable[[], int]
    ) -> None:
        self.path = path
        self.capacity_bytes = len(memory) - HEADER_BYTES
        self._memory = memory
        self._lock = lock
        self._clock = clock
        self._owner_pid = os.getpid()
        self._words = memoryview(memory)[:HEADER_BYTES].cast("Q")
        self._ring = memoryview(memory)[HEADER_BYTES:]
        self._write = 0
        self._known_read = 0  # the reader's cursor as last seen; asked again only when it matters
        self._next_sequence = 1
        self._is_open = True

    @classmethod
    def create(
        cls,
        directory: Path,
        name: SegmentName,
        *,
        ring_bytes: int,
        clock: Callable[[], int] = time.time_ns,
    ) -> "RingWriter":
        """Make a segment with a ring of ``ring_bytes``, rounded up to a multiple of 64.

        Raises:
            SegmentNotCreated: not enough shared memory, or the directory cannot be written.
        """
        header = SegmentHeader(name.file_name, align(ring_bytes), clock(), name.pid, name.rank)
        memory, lock = segment.create(directory, header)
        return cls(directory / name.file_name, memory, lock, clock)

    @property
    def free_bytes(self) -> int:
        """Bytes that could be written now, record headers and padding included."""
        if not self._is_active():
            return 0
        self._known_read = self._read_cursor()
        return self.capacity_bytes - (self._write - self._known_read)

    def publish(
        self,
        kind: RecordKind,
        step: int,
        metadata: bytes,
        arrays: Sequence[tuple[int, memoryview]] = (),
        payload_bytes: int = 0,
    ) -> PublishResult:
        """Copy a record into the ring and announce it, or drop it and count it.

        Args:
            kind: of the record.
            step: optimizer step, 0 where there is none.
            metadata: packed by `trackside.wire.records.encode`.
            arrays: contiguous bytes and their offset in the payload, ascending, not overlapping;
                gaps between them read as zeros.
            payload_bytes: size of the payload.

        Raises:
            ValueError: arrays overlap, descend, or leave the payload.
        """
        if not self._is_active():
            return PublishResult.INACTIVE
        chunks = _check_arrays(arrays, payload_bytes)
        record_bytes = RECORD_HEADER_BYTES + align(len(metadata)) + align(payload_bytes)
        if record_bytes > self.capacity_bytes:
            self.count_drop(DropCause.TOO_LARGE)
            return PublishResult.TOO_LARGE
        tail = self.capacity_bytes - self._write % self.capacity_bytes
        pad_bytes = tail if tail < record_bytes else 0
        if not self._has_room(pad_bytes + record_bytes):
            if pad_bytes + record_bytes > self.capacity_bytes and self._has_room(pad_bytes):
                # From here it would not fit even an empty ring; the start of the next lap does.
                self._publish_pad(pad_bytes)
            self.count_drop(DropCause.RING_FULL)
            return PublishResult.RING_FULL
        start = self._write + pad_bytes
        end = start + record_bytes
        self._words[RESERVED_CURSOR_WORD] = end
        try:
            if pad_bytes:
                self._write_pad(pad_bytes)
            self._write_record(kind, step, start, metadata, chunks, payload_bytes)
        except BaseException:
            self._words[RESERVED_CURSOR_WORD] = self._write
            self.count_drop(DropCause.ERROR)
            raise
        self._next_sequence += 1
        self._commit(end)
        return PublishResult.PUBLISHED

    def count_drop(self, cause: DropCause, count: int = 1) -> None:
        """Add to a counter in the header, where the daemon finds it whatever becomes of us."""
        if self._is_active():
            self._words[DROPS_WORD + cause] += count

    @property
    def drops(self) -> dict[str, int]:
        """Drops by cause, without the causes that did not occur."""
        return _read_drops(self._words) if self._is_active() else {}

    def close(self) -> None:
        """End the segment in order; twice is fine.

        If the reader has committed everything, the segment is unlinked. Else it stays for a
        daemon to come, and the memory of its free part goes back to the system.
        """
        if not self._is_active():
            return
        self._words[STATE_WORD] = STATE_CLOSED
        self._known_read = self._read_cursor()
        is_drained = self._known_read == self._write
        if is_drained:
            segment.remove(self.path)
        else:
            self._give_back_free_memory()
        self._is_open = False
        self._words.release()
        self._ring.release()
        self._memory.close()
        self._lock.release(unlink=False)

    def _is_active(self) -> bool:
        return self._is_open and os.getpid() == self._owner_pid

    def _has_room(self, num_bytes: int) -> bool:
        limit = self._write + num_bytes - self.capacity_bytes
        if self._known_read < limit:
            self._known_read = self._read_cursor()
        return self._known_read >= limit

    def _read_cursor(self) -> int:
        """Return the reader's cursor; a nonsensical one counts as unmoved."""
        cursor = self._words[READ_CURSOR_WORD]
        fence()
        is_sane = self._known_read <= cursor <= self._write and cursor % ALIGNMENT == 0
        return cursor if is_sane else self._known_read

    def _write_record(
        self,
        kind: RecordKind,
        step: int,
        start: int,
        metadata: bytes,
        chunks: Sequence[tuple[int, memoryview]],
        payload_bytes: int,
    ) -> None:
        offset = start % self.capacity_bytes
        metadata_at = offset + RECORD_HEADER_BYTES
        payload_at = metadata_at + align(len(metadata))
        payload_end = payload_at + payload_bytes
        digest = 0
        if payload_bytes:
            digest = _copy_payload(self._ring[payload_at:payload_end], chunks)
        header = RecordHeader(
            kind,
            self._next_sequence,
            start,
            step,
            self._clock(),
            payload_bytes,
            len(metadata),
            digest,
        )
        self._ring[metadata_at : metadata_at + len(metadata)] = metadata
        self._ring[offset:metadata_at] = pack_record_header(header, metadata)

    def _write_pad(self, pad_bytes: int) -> None:
        offset = self._write % self.capacity_bytes
        body_bytes = pad_bytes - RECORD_HEADER_BYTES
        pad = RecordHeader(
            PAD_KIND, self._next_sequence, self._write, 0, self._clock(), body_bytes, 0, 0
        )
        self._ring[offset : offset + RECORD_HEADER_BYTES] = pack_record_header(pad, b"")

    def _publish_pad(self, pad_bytes: int) -> None:
        end = self._write + pad_bytes
        self._words[RESERVED_CURSOR_WORD] = end
        self._write_pad(pad_bytes)
        self._commit(end)

    def _commit(self, end: int) -> None:
        """Announce all bytes below ``end`` by one aligned store."""
        fence()
        self._words[WRITE_CURSOR_WORD] = end
        self._write = end

    def _give_back_free_memory(self) -> None:
        free_start = self._write % self.capacity_bytes
        free_end = free_start + self.capacity_bytes - (self._write - self._known_read)
        wrapped_end = max(free_end - self.capacity_bytes, 0)
        for start, end in ((free_start, min(free_end, self.capacity_bytes)), (0, wrapped_end)):
            first = -(-(HEADER_BYTES + start) // mmap.PAGESIZE) * mmap.PAGESIZE
            last = (HEADER_BYTES + end) // mmap.PAGESIZE * mmap.PAGESIZE
            if last > first:
                self._memory.madvise(mmap.MADV_REMOVE, first, last - first)


class RingReader:
    """The consumer's end. One thread at a time.

    The in-memory position runs ahead of the durable read cursor: `poll` moves the first,
    `commit` the second. A reader opened again starts at the durable cursor.
    """

    def __init__(
        self, path: Path, memory: mmap.mmap, header: SegmentHeader, name: SegmentName
    ) -> None:
        self.path = path
        self.name = name
        self.header = header
        self._memory = memory
        self._words = memoryview(memory)[:HEADER_BYTES].cast("Q")
        self._ring = memoryview(memory)[HEADER_BYTES:].toreadonly()
        self._committed = self._words[READ_CURSOR_WORD]
        self._position = self._committed
        self._last_write = self._committed
        # None: opened in the middle, so the first record's number is taken as it comes.
        self._expected: int | None = 1 if self._position == 0 else None
        self._corrupt_records = 0
        self._damage_start: int | None = None
        self._skipped: dict[int, int] = {}  # start to end of what holds nothing to commit

    @classmethod
    def open(cls, path: Path, *, read_only: bool = False) -> "RingReader":
        """Map a segment; ``read_only`` is for `read_at` in another process.

        Raises:
            LayoutMismatch: the segment has another wire version.
            SegmentRefused: it is not a segment that we may read, or contradicts itself.
        """
        memory, header = segment.open_existing(path, read_only=read_only)
        name = SegmentName.parse(path.name)
        assert name is not None  # noqa: S101 - open_existing refuses such names
        reader = cls(path, memory, header, name)
        try:
            reader._write_cursor()
        except SegmentRefused:
            reader.close()
            raise
        return reader

    def poll(self) -> Record | None:
        """Return the next intact record, or None when there is none yet.

        Raises:
            SegmentRefused: the writer's cursor contradicts itself; nothing more can be read.
        """
        while True:
            limit = self._write_cursor()
            if self._position >= limit:
                return None
            header = parse_record_header(self._ring, self._position, limit)
            if header is None or not self._is_plausible(header):
                self._skip_damage()
                continue
            self._end_damage(header)
            self._position = header.end
            self._expected = header.sequence + (header.kind != PAD_KIND)
            kind = _KINDS.get(header.kind)
            if kind is not None:
                record = self._view(header, kind)
                if PayloadDigest(record.payload).finish() == header.payload_digest:
                    return record
            if header.kind != PAD_KIND:
                self._corrupt_records += 1
            self._pass_over(header.start, header.end)

    def read_at(self, start: int) -> Record:
        """Return the record at a cursor that `poll` of another reader gave.

        Raises:
            RecordCorrupt: there is no intact record.
            SegmentRefused: the segment's cursors contradict themselves.
        """
        limit = self._write_cursor()
        where = f"segment {self.path.name!r}, cursor {start}"
        lowest = max(limit - self.header.capacity_bytes, 0)
        if start % ALIGNMENT or not lowest <= start < limit:
            raise RecordCorrupt(f"{where}: no record; the ring holds {lowest} to {limit}")
        header = parse_record_header(self._ring, start, limit)
        kind = None if header is None else _KINDS.get(header.kind)
        if header is None or kind is None:
            raise RecordCorrupt(f"{where}: no intact record header")
        record = self._view(header, kind)
        if PayloadDigest(record.payload).finish() != header.payload_digest:
            raise RecordCorrupt(f"{where}: the payload does not match its checksum")
        return record

    def commit(self, cursor: int) -> None:
        """Tell the writer that everything before ``cursor`` is durable; never moves back.

        Raises:
            ValueError: the cursor is not one that a polled record ends at.
        """
        if cursor % ALIGNMENT or cursor > self._position:
            raise ValueError(f"cursor {cursor} is beyond {self._position}, or not aligned")
        self._store_committed(max(cursor, self._committed))

    @property
    def lag_bytes(self) -> int:
        """Published and not committed."""
        return self._write_cursor() - self._committed

    @property
    def corrupt_records(self) -> int:
        """Committed records that were skipped because their bytes were damaged, at least."""
        return self._corrupt_records + (self._damage_start is not None)

    @property
    def torn_records(self) -> int:
        """1 if the writer died in the middle of a record, else 0."""
        if self.is_writer_alive():
            return 0
        fence()
        return int(self._words[RESERVED_CURSOR_WORD] != self._words[WRITE_CURSOR_WORD])

    @property
    def drops(self) -> dict[str, int]:
        """Drops by cause as the writer counted them, without the causes that did not occur."""
        return _read_drops(self._words)

    @property
    def is_closed(self) -> bool:
        """Whether the writer ended in order; a dead writer that did not is not closed."""
        return self._words[STATE_WORD] == STATE_CLOSED

    @property
    def is_drained(self) -> bool:
        """Whether `poll` has passed everything published so far."""
        return self._position >= self._write_cursor()

    def is_writer_alive(self) -> bool:
        """Whether the writer still runs; False for one that closed in order."""
        return segment.is_writer_alive(self.path)

    def close(self) -> None:
        """Let go of the segment; views given out stay valid until they are dropped."""
        self._words.release()
        try:
            self._ring.release()
            self._memory.close()
        except BufferError:
            return  # the map goes with the last view of it

    def remove(self) -> None:
        """Unlink the segment and its lock file."""
        segment.remove(self.path)

    def _write_cursor(self) -> int:
        cursor = self._words[WRITE_CURSOR_WORD]
        fence()
        lowest, highest = self._last_write, self._committed + self.header.capacity_bytes
        if cursor % ALIGNMENT or self._committed % ALIGNMENT or not lowest <= cursor <= highest:
            raise SegmentRefused(
                f"segment {self.path.name!r} refused: write cursor {cursor} is not in "
                f"{lowest} to {highest}"
            )
        self._last_write = cursor
        return cursor

    def _is_plausible(self, header: RecordHeader) -> bool:
        """Check the sequence number against the records before it."""
        if self._expected is None:
            return header.sequence > 0
        skipped = 0 if self._damage_start is None else self._position - self._damage_start
        return 0 <= header.sequence - self._expected <= skipped // ALIGNMENT

    def _skip_damage(self) -> None:
        """Step to the next place where a record could begin."""
        start = self._position
        if self._damage_start is None:
            self._damage_start = start
        self._position = start + ALIGNMENT
        self._pass_over(start, self._position)

    def _end_damage(self, header: RecordHeader) -> None:
        if self._damage_start is None:
            return
        known = 1 if self._expected is None else header.sequence - self._expected
        self._corrupt_records += max(known, 1)
        self._damage_start = None

    def _pass_over(self, start: int, end: int) -> None:
        """Remember that nothing before ``end`` waits to be committed by a record."""
        self._skipped[start] = end
        self._store_committed(self._committed)

    def _store_committed(self, cursor: int) -> None:
        while cursor in self._skipped:
            cursor = self._skipped.pop(cursor)
        if cursor != self._committed:
            fence()
            self._words[READ_CURSOR_WORD] = cursor
            self._committed = cursor

    def _view(self, header: RecordHeader, kind: RecordKind) -> Record:
        offset = header.start % self.header.capacity_bytes
        metadata_at = offset + RECORD_HEADER_BYTES
        payload_at = offset + header.payload_start - header.start
        return Record(
            kind=kind,
            step=header.step,
            sequence=header.sequence,
            time_ns=header.time_ns,
            metadata=self._ring[metadata_at : metadata_at + header.metadata_bytes],
            payload=self._ring[payload_at : payload_at + header.payload_bytes],
            start=header.start,
            end=header.end,
        )


def _check_arrays(
    arrays: Sequence[tuple[int, memoryview]], payload_bytes: int
) -> list[tuple[int, memoryview]]:
    """Return the arrays as flat bytes; raise before anything is reserved."""
    chunks: list[tuple[int, memoryview]] = []
    filled = 0
    for offset, array in arrays:
        flat = array.cast("B") if array.nbytes else memoryview(b"")
        if offset < filled or offset + flat.nbytes > payload_bytes:
            raise ValueError(
                f"array at {offset} of {flat.nbytes} bytes does not fit between {filled} "
                f"and the payload's end at {payload_bytes}"
            )
        chunks.append((offset, flat))
        filled = offset + flat.nbytes
    return chunks


def _copy_payload(payload: memoryview, chunks: Sequence[tuple[int, memoryview]]) -> int:
    """Copy the arrays in place and return the digest of the payload, zeros in the gaps.

    Blockwise: what the digest reads is then still in the cache.
    """
    digest = PayloadDigest(payload)
    written = 0
    for offset, array in chunks:
        _fill_zeros(payload, written, offset)
        done = 0
        while done < len(array):
            at = offset + done
            step = min(len(array) - done, DIGEST_BLOCK_BYTES - at % DIGEST_BLOCK_BYTES)
            payload[at : at + step] = array[done : done + step]
            done += step
            digest.advance(at + step)
        written = offset + len(array)
    _fill_zeros(payload, written, len(payload))
    return digest.finish()


def _fill_zeros(payload: memoryview, start: int, end: int) -> None:
    while start < end:
        step = min(end - start, len(_ZEROS))
        payload[start : start + step] = _ZEROS[:step]
        start += step


def _read_drops(words: memoryview) -> dict[str, int]:
    counts = ((cause.label, words[DROPS_WORD + cause]) for cause in DropCause)
    return {label: count for label, count in counts if count}
