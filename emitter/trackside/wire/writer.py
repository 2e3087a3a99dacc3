"""The producer's end of a ring."""

import contextlib
import mmap
import os
import time
import zlib
from collections.abc import Callable, Sequence
from enum import Enum
from pathlib import Path

from trackside.errors import SegmentNotCreated
from trackside.wire import segment
from trackside.wire.layout import (
    ALIGNMENT,
    DROPS_WORD,
    HEADER_BYTES,
    MAX_HELLO_BYTES,
    PAD_KIND,
    READ_CURSOR_WORD,
    RECORD_HEADER_BYTES,
    RESERVED_CURSOR_WORD,
    STATE_CLOSED,
    STATE_WORD,
    WRITE_CURSOR_WORD,
    DropCause,
    RecordHeader,
    SegmentHeader,
    align,
    fence,
    pack_record_header,
    read_drops,
)
from trackside.wire.payload import Payload
from trackside.wire.records import RecordKind
from trackside.wire.segment import SegmentName


class PublishResult(Enum):
    """What became of a record."""

    PUBLISHED = "published"
    RING_FULL = "ring_full"
    """Dropped and counted: the daemon has not made room yet."""

    TOO_LARGE = "too_large"
    """Dropped and counted: it would not fit an empty ring."""

    INACTIVE = "inactive"
    """The ring is closed, was cut, or this process is a fork of the one that made it."""


class RingWriter:
    """The producer's end. One thread at a time; a forked child's calls do nothing."""

    def __init__(
        self,
        path: Path,
        memory: mmap.mmap,
        header: SegmentHeader,
        lock: segment.AliveLock,
        clock: Callable[[], int],
    ) -> None:
        """Take a segment over that was just made; see `create`."""
        self.path = path
        self.capacity_bytes = header.capacity_bytes
        self._ring_start = header.ring_start
        self._file_bytes = header.file_bytes
        self._memory = memory
        self._lock = lock
        self._clock = clock
        self._owner_pid = os.getpid()
        self._words = memoryview(memory)[:HEADER_BYTES].cast("Q")
        self._ring = memoryview(memory)[self._ring_start :]
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
        hello: bytes = b"",
        clock: Callable[[], int] = time.time_ns,
    ) -> "RingWriter":
        """Make a segment with a ring of ``ring_bytes``, rounded up to a multiple of 64.

        ``hello`` says who writes, packed by `trackside.wire.records.encode`. It lies outside
        the ring, so that a daemon that starts late or anew finds it whatever was consumed.
        ``clock`` gives the time of a record, in nanoseconds since the epoch.

        Raises:
            SegmentNotCreated: not enough shared memory, the directory cannot be written, or the
                hello has more than `MAX_HELLO_BYTES`.
        """
        if len(hello) > MAX_HELLO_BYTES:
            raise SegmentNotCreated(
                f"the settings of the run take {len(hello)} bytes packed, {MAX_HELLO_BYTES} are "
                "allowed; pass a smaller config="
            )
        header = SegmentHeader(
            name.file_name, align(ring_bytes), clock(), len(hello), zlib.crc32(hello)
        )
        memory, lock = segment.create(directory, header, hello)
        return cls(directory / name.file_name, memory, header, lock, clock)

    def publish(
        self,
        kind: RecordKind,
        step: int,
        metadata: bytes,
        arrays: Sequence[tuple[int, memoryview]] = (),
        payload_bytes: int = 0,
        *,
        keep_free_bytes: int = 0,
    ) -> PublishResult:
        """Copy a record into the ring and announce it, or drop it and count it.

        Args:
            kind: of the record.
            step: optimizer step, 0 where there is none.
            metadata: packed by `trackside.wire.records.encode`.
            arrays: contiguous bytes and their offset in the payload, ascending, not overlapping;
                gaps between them read as zeros.
            payload_bytes: size of the payload.
            keep_free_bytes: room for records to come; without it the ring counts as full.

        Raises:
            ValueError: arrays overlap, descend, or leave the payload.
            TypeError: an array is not contiguous.
        """
        if not self._is_active():
            return PublishResult.INACTIVE
        payload = Payload.check(arrays, payload_bytes)
        record_bytes = RECORD_HEADER_BYTES + align(len(metadata)) + align(payload_bytes)
        if record_bytes > self.capacity_bytes:
            self.count_drop(DropCause.TOO_LARGE)
            return PublishResult.TOO_LARGE
        tail = self.capacity_bytes - self._write % self.capacity_bytes
        pad_bytes = tail if tail < record_bytes else 0
        if not self._has_room(pad_bytes + record_bytes + keep_free_bytes):
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
            self._write_record(kind, step, start, metadata, payload)
        except BaseException:
            self._words[RESERVED_CURSOR_WORD] = self._write
            self.count_drop(DropCause.ERROR)
            raise
        self._next_sequence += 1
        self._commit(end)
        return PublishResult.PUBLISHED

    @property
    def was_cut(self) -> bool:
        """Whether somebody made the file shorter: to touch its missing pages would be a SIGBUS."""
        return self._is_ours() and not self._is_whole()

    def has_room(self, num_bytes: int) -> bool:
        """Whether this many bytes are free in the ring."""
        return self._is_active() and self._has_room(num_bytes)

    def count_drop(self, cause: DropCause, count: int = 1) -> None:
        """Add to a counter in the header, where the daemon finds it whatever becomes of us."""
        if self._is_active():
            self._words[DROPS_WORD + cause] += count

    @property
    def drops(self) -> dict[str, int]:
        """Drops by cause, without the causes that did not occur."""
        return read_drops(self._words) if self._is_active() else {}

    def close(self) -> None:
        """End the segment in order; twice is fine.

        If the reader has committed everything, the segment is unlinked. Else it stays for a
        daemon to come, and the memory of its free part goes back to the system. A file that was
        cut is let go of as it is.
        """
        if self.was_cut:
            self._let_go()
        if not self._is_active():
            return
        self._words[STATE_WORD] = STATE_CLOSED
        self._known_read = self._read_cursor()
        is_drained = self._known_read == self._write
        if is_drained:
            segment.remove(self.path)
        else:
            # Not every file system can; then the memory waits for a daemon.
            with contextlib.suppress(OSError):
                self._give_back_free_memory()
        self._let_go()

    def _let_go(self) -> None:
        self._is_open = False
        self._words.release()
        self._ring.release()
        self._memory.close()
        self._lock.release(unlink=False)

    def _is_active(self) -> bool:
        return self._is_ours() and self._is_whole()

    def _is_ours(self) -> bool:
        return self._is_open and os.getpid() == self._owner_pid

    def _is_whole(self) -> bool:
        return self._memory.size() >= self._file_bytes

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
        self, kind: RecordKind, step: int, start: int, metadata: bytes, payload: Payload
    ) -> None:
        offset = start % self.capacity_bytes
        metadata_at = offset + RECORD_HEADER_BYTES
        payload_at = metadata_at + align(len(metadata))
        digest = 0
        if payload.nbytes:
            digest = payload.copy_into(self._ring[payload_at : payload_at + payload.nbytes])
        self._ring[metadata_at : metadata_at + len(metadata)] = metadata
        header = RecordHeader(
            kind=kind,
            sequence=self._next_sequence,
            start=start,
            step=step,
            time_ns=self._clock(),
            payload_bytes=payload.nbytes,
            metadata_bytes=len(metadata),
            payload_digest=digest,
            metadata_crc=zlib.crc32(metadata),
        )
        self._ring[offset:metadata_at] = pack_record_header(header)

    def _write_pad(self, pad_bytes: int) -> None:
        offset = self._write % self.capacity_bytes
        pad = RecordHeader(
            kind=PAD_KIND,
            sequence=self._next_sequence,
            start=self._write,
            step=0,
            time_ns=self._clock(),
            payload_bytes=pad_bytes - RECORD_HEADER_BYTES,
            metadata_bytes=0,
            payload_digest=0,
            metadata_crc=0,
        )
        self._ring[offset : offset + RECORD_HEADER_BYTES] = pack_record_header(pad)

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
            first = -(-(self._ring_start + start) // mmap.PAGESIZE) * mmap.PAGESIZE
            last = (self._ring_start + end) // mmap.PAGESIZE * mmap.PAGESIZE
            if last > first:
                self._memory.madvise(mmap.MADV_REMOVE, first, last - first)
