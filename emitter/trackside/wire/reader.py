"""The consumer's end of a ring."""

import mmap
import zlib
from pathlib import Path

from trackside.errors import RecordCorrupt, SegmentRefused
from trackside.wire import segment
from trackside.wire.layout import (
    ALIGNMENT,
    HEADER_BYTES,
    READ_CURSOR_WORD,
    RESERVED_CURSOR_WORD,
    STATE_CLOSED,
    STATE_WORD,
    WRITE_CURSOR_WORD,
    SegmentHeader,
    fence,
    read_drops,
)
from trackside.wire.scanner import Record, RecordScanner, read_record
from trackside.wire.segment import SegmentName


class RingReader:
    """The consumer's end. One thread at a time.

    The in-memory position runs ahead of the durable read cursor: `poll` moves the first,
    `commit` the second. A reader opened again starts at the durable cursor.
    """

    def __init__(
        self, path: Path, memory: mmap.mmap, header: SegmentHeader, *, read_only: bool
    ) -> None:
        self.path = path
        self.header = header
        self._memory = memory
        self._is_read_only = read_only
        self._words = memoryview(memory)[:HEADER_BYTES].cast("Q")
        self._ring = memoryview(memory)[header.ring_start :].toreadonly()
        self._committed = self._words[READ_CURSOR_WORD]
        self._last_write = self._committed
        self._scanner = RecordScanner(self._ring, self._committed)
        self._skipped: dict[int, int] = {}  # start to end of what no record's commit covers

    @classmethod
    def open(cls, path: Path, *, read_only: bool = False) -> "RingReader":
        """Map a segment.

        ``read_only`` is for a second process: it may poll and `read_at`, and moves no cursor.

        Raises:
            LayoutMismatch: the segment has another wire version.
            SegmentRefused: it is not a segment that we may read, or contradicts itself.
        """
        memory, header = segment.open_existing(path, read_only=read_only)
        reader = cls(path, memory, header, read_only=read_only)
        try:
            reader._check_cursors()
            reader._check_holes()
        except SegmentRefused:
            reader.close()
            raise
        return reader

    @property
    def name(self) -> SegmentName:
        """Who writes the segment, by its file name."""
        name = SegmentName.parse(self.path.name)
        assert name is not None  # noqa: S101 - a segment of another name is not opened
        return name

    def hello(self) -> bytes:
        """Return what the writer says of itself, packed.

        Raises:
            SegmentRefused: it does not match its checksum.
        """
        self._check_size()
        packed = self._memory[HEADER_BYTES : HEADER_BYTES + self.header.hello_bytes]
        if zlib.crc32(packed) != self.header.hello_crc:
            raise SegmentRefused(
                f"segment {self.path.name!r} refused: its hello does not match its checksum"
            )
        return packed

    def poll(self) -> Record | None:
        """Return the next intact record, or None when there is none yet.

        Raises:
            SegmentRefused: the cursors contradict each other; nothing more can be read.
        """
        record = self._scanner.next(self._check_cursors())
        if self._scanner.skipped:
            self._skipped.update(self._scanner.skipped)
            self._scanner.skipped.clear()
            self._move_read_cursor(self._committed)
        return record

    def read_at(self, start: int) -> Record:
        """Return the record at a cursor that `poll` of another reader gave.

        Raises:
            RecordCorrupt: there is no intact record.
            SegmentRefused: the cursors contradict each other.
        """
        limit = self._check_cursors()
        lowest = self._read_cursor()
        if start % ALIGNMENT or not lowest <= start < limit:
            raise RecordCorrupt(
                f"segment {self.path.name!r}: no record at cursor {start}, "
                f"records lie between {lowest} and {limit}"
            )
        try:
            return read_record(self._ring, start, limit)
        except RecordCorrupt as error:
            raise RecordCorrupt(f"segment {self.path.name!r}: {error}") from error

    def commit(self, cursor: int) -> None:
        """Tell the writer that everything before ``cursor`` is durable; never moves back.

        Raises:
            ValueError: the cursor is not one that a polled record ends at, or the segment was
                opened read-only.
            SegmentRefused: the file was cut.
        """
        self._check_size()
        if self._is_read_only:
            raise ValueError(f"segment {self.path.name!r} was opened read-only")
        if cursor % ALIGNMENT or cursor > self._scanner.position:
            raise ValueError(
                f"cursor {cursor} is beyond {self._scanner.position}, or not a multiple of "
                f"{ALIGNMENT}"
            )
        self._move_read_cursor(max(cursor, self._committed))

    @property
    def lag_bytes(self) -> int:
        """Published and not committed."""
        return self._check_cursors() - self._read_cursor()

    @property
    def corrupt_records(self) -> int:
        """Committed records that were skipped because their bytes were damaged, at least."""
        return self._scanner.corrupt_records

    @property
    def torn_records(self) -> int:
        """1 if the writer died in the middle of a record, else 0."""
        if self.is_writer_alive():
            return 0
        fence()
        return int(self._word(RESERVED_CURSOR_WORD) != self._word(WRITE_CURSOR_WORD))

    @property
    def drops(self) -> dict[str, int]:
        """Drops by cause as the writer counted them, without the causes that did not occur."""
        self._check_size()
        return read_drops(self._words)

    @property
    def is_closed(self) -> bool:
        """Whether the writer ended in order; a killed one never does."""
        return self._word(STATE_WORD) == STATE_CLOSED

    @property
    def is_drained(self) -> bool:
        """Whether `poll` has passed everything published so far."""
        return self._scanner.position >= self._check_cursors()

    def is_writer_alive(self) -> bool:
        """Whether the writer still runs; False for one that closed in order."""
        return segment.is_writer_alive(self.path)

    @property
    def was_removed(self) -> bool:
        """Whether somebody else unlinked the segment: a writer closes it before it does so."""
        return not self.path.exists() and not self.is_closed

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

    def _read_cursor(self) -> int:
        """Return the durable cursor: our own word, or that of the reader beside us."""
        return self._word(READ_CURSOR_WORD) if self._is_read_only else self._committed

    def _word(self, index: int) -> int:
        self._check_size()
        return self._words[index]

    def _check_size(self) -> None:
        """Refuse a file that was cut: to touch its missing pages would be a SIGBUS."""
        expected = self.header.file_bytes
        found = self._memory.size()
        if found < expected:
            raise SegmentRefused(
                f"segment {self.path.name!r} refused: it was cut from {expected} to {found} bytes"
            )

    def _check_cursors(self) -> int:
        """Return the write cursor, after checking it against everything known."""
        write = self._word(WRITE_CURSOR_WORD)
        fence()
        read = self._read_cursor()
        lowest, highest = max(self._last_write, read), read + self.header.capacity_bytes
        if self._is_read_only:
            lowest = self._last_write  # the other reader may have gone on since we looked
        if write % ALIGNMENT or read % ALIGNMENT or not lowest <= write <= highest:
            raise SegmentRefused(
                f"segment {self.path.name!r} refused: read cursor {read} and write cursor {write} "
                f"contradict each other in a ring of {self.header.capacity_bytes} bytes"
            )
        self._last_write = write
        return write

    def _check_holes(self) -> None:
        """Refuse published bytes that no memory stands behind: to read them would allocate it."""
        read, write = self._read_cursor(), self._last_write
        ring_start, capacity = self.header.ring_start, self.header.capacity_bytes
        while read < write:
            start = ring_start + read % capacity
            end = min(start + write - read, ring_start + capacity)
            if segment.first_hole(self.path, start) < end:
                raise SegmentRefused(
                    f"segment {self.path.name!r} refused: published bytes have no memory behind "
                    "them; the file is sparse"
                )
            read += end - start

    def _move_read_cursor(self, cursor: int) -> None:
        """Store the read cursor, past everything behind it that no commit will cover."""
        while cursor in self._skipped:
            cursor = self._skipped.pop(cursor)
        if cursor != self._committed and not self._is_read_only:
            fence()
            self._words[READ_CURSOR_WORD] = cursor
            self._committed = cursor
