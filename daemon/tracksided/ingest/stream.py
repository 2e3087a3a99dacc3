"""One rank's segment as the daemon sees it: deliveries in, cursor moves out."""

import logging
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from trackside.errors import RecordCorrupt, SegmentRefused
from trackside.wire.records import MAX_STEP, Close, Hello, RecordKind, Step, decode
from trackside.wire.ring import Record, RingReader

logger = logging.getLogger(__name__)

# Steps taken in and not settled: bounds the daemon's memory; the bytes stay in shared memory.
MAX_OUTSTANDING = 64

# Decoding costs this process time, 1 us per item: 100,000 parameters need 10 MB.
MAX_METADATA_BYTES = 16 << 20

# Causes of drops stand in every status.json; ours are six short words.
MAX_CAUSES = 64
MAX_CAUSE_CHARS = 64


@dataclass(frozen=True, slots=True)
class Delivery:
    """One sampled step that a rank published; its bytes stay in shared memory until settled."""

    rank: int
    segment: Path
    nonce: str
    sequence: int
    start: int
    """Cursor at which the record begins."""

    end: int
    step: Step


@dataclass(frozen=True, slots=True)
class StreamHealth:
    """How one rank's segment is doing."""

    rank: int
    pid: int
    is_alive: bool
    last_step: int
    lag_bytes: int
    """Published and not durable yet."""

    drops: dict[str, int]
    """Samples that the trainer could not publish, by cause."""

    corrupt_records: int
    torn_records: int
    failure: str | None


class RankStream:
    """Reads one segment and moves its cursor over the contiguous prefix of settled records."""

    def __init__(self, reader: RingReader, hello: Hello) -> None:
        self.reader = reader
        self.hello = hello
        self.close_record: Close | None = None
        self.last_step = 0
        self.malformed = 0
        """Records whose metadata could not be used."""

        self.failure: str | None = None
        """Why the segment cannot be read any more."""

        self._outstanding: deque[int] = deque()
        self._settled: set[int] = set()
        self._kept: int | None = None
        self._is_left = False

    @property
    def is_left(self) -> bool:
        """Whether the trainer is gone, which it is for good: then nothing is asked any more."""
        self._is_left = self._is_left or not self.reader.is_writer_alive()
        return self._is_left

    @property
    def nonce(self) -> str:
        """What tells this segment from every other one of the same run."""
        return self.reader.name.nonce

    def poll(self) -> Iterator[Delivery]:
        """Yield newly published steps; what cannot be decoded is counted and passed over."""
        while self.failure is None and len(self._outstanding) < MAX_OUTSTANDING:
            try:
                record = self.reader.poll()
            except SegmentRefused as error:
                self._fail(error)
                return
            if record is None:
                return
            self._outstanding.append(record.end)
            delivery = self._decode(record)
            if delivery is not None:
                self.last_step = delivery.step.step
                yield delivery
            elif record.kind is RecordKind.CLOSE:
                self._keep_only(record.end)
            else:
                self.settle(record.end)

    def _keep_only(self, end: int) -> None:
        """Keep one last record: a daemon that starts anew must know how the run ended."""
        former, self._kept = self._kept, end
        if former is not None:
            self.settle(former)

    def settle(self, end: int) -> None:
        """Note that the record that ends at cursor ``end`` needs nothing more."""
        self._settled.add(end)
        cursor = None
        while self._outstanding and self._outstanding[0] in self._settled:
            cursor = self._outstanding.popleft()
            self._settled.discard(cursor)
        if cursor is not None and self.failure is None:
            try:
                self.reader.commit(cursor)
            except SegmentRefused as error:
                self._fail(error)

    def has_ended(self) -> bool:
        """Tell whether the writer is gone and all that it published has been read."""
        if self.failure is not None:
            return True
        try:
            # Liveness first: a record committed between the two looks must not be missed.
            writer_gone = self.reader.is_closed or not self.reader.is_writer_alive()
            is_drained = self.reader.is_drained
            is_lost = writer_gone and is_drained and self.reader.was_removed
        except SegmentRefused as error:
            self._fail(error)
            return True
        if is_lost:
            self._fail(_removed_by_somebody(self.reader.path.name))
        return writer_gone and is_drained

    def health(self) -> "StreamHealth":
        """Return the counters that `trackside status` and the totals show."""
        close = self.close_record
        try:
            reader = self.reader
            return StreamHealth(
                rank=self.hello.rank,
                pid=self.hello.pid,
                is_alive=reader.is_writer_alive(),
                last_step=self.last_step,
                lag_bytes=reader.lag_bytes,
                drops=reader.drops if close is None else close.dropped,
                corrupt_records=reader.corrupt_records + self.malformed,
                torn_records=0 if close is not None else reader.torn_records,
                failure=self.failure,
            )
        except SegmentRefused as error:
            self._fail(error)
            return StreamHealth(
                rank=self.hello.rank,
                pid=self.hello.pid,
                is_alive=False,
                last_step=self.last_step,
                lag_bytes=0,
                drops={},
                corrupt_records=self.malformed,
                torn_records=0,
                failure=self.failure,
            )

    def close(self, *, remove: bool) -> None:
        """Let go of the segment; ``remove`` unlinks it."""
        self.reader.close()
        if remove:
            self.reader.remove()

    def _fail(self, error: SegmentRefused) -> None:
        if self.failure is None:
            self.failure = str(error)
            logger.error("%s; rank %d is not followed any more", error, self.hello.rank)

    def _decode(self, record: Record) -> Delivery | None:
        try:
            _check_size(record)
            if record.kind is RecordKind.CLOSE:
                close = decode(Close, record.metadata)
                _check_numbers(close.steps, *_logged_steps(close))
                _check_drops(close.dropped)
                self.close_record = close
                return None
            step = decode(Step, record.metadata)
            _check_step(step, record)
        except RecordCorrupt as error:
            self.malformed += 1
            if self.malformed == 1:
                logger.warning(
                    "%s: record %d left out: %.500s", self.reader.path.name, record.sequence, error
                )
            return None
        return Delivery(
            rank=self.hello.rank,
            segment=self.reader.path,
            nonce=self.nonce,
            sequence=record.sequence,
            start=record.start,
            end=record.end,
            step=step,
        )


def _check_size(record: Record) -> None:
    if len(record.metadata) > MAX_METADATA_BYTES:
        raise RecordCorrupt(f"{len(record.metadata)} bytes of metadata are too many")


def _check_step(step: Step, record: Record) -> None:
    if step.step != record.step or step.step < 0:  # callers of the classic API count from 0
        raise RecordCorrupt(f"metadata says step {step.step}, header {record.step}")
    _check_numbers(step.step, *_logged_steps(step))
    _check_drops(step.dropped)


def _logged_steps(record: Step | Close) -> Iterator[int]:
    yield from (entry.step for entry in record.scalars)
    yield from (entry.step for entry in record.texts)


def _check_numbers(*steps: int) -> None:
    """Refuse steps that TensorBoard's signed 64-bit field cannot hold."""
    for step in steps:
        if not 0 <= step <= MAX_STEP:
            raise RecordCorrupt(f"step {step} is out of range")


def _check_drops(dropped: Mapping[str, int]) -> None:
    """Refuse more causes, or longer ones, than there can be."""
    if len(dropped) > MAX_CAUSES or any(len(cause) > MAX_CAUSE_CHARS for cause in dropped):
        raise RecordCorrupt(
            f"{len(dropped)} causes of drops, or one of more than {MAX_CAUSE_CHARS} characters"
        )


def _removed_by_somebody(name: str) -> SegmentRefused:
    return SegmentRefused(
        f"segment {name!r} was removed while its trainer had not closed it: what the trainer "
        "publishes from now on is lost. Where systemd-logind did it at logout: `loginctl "
        "enable-linger`, or RemoveIPC=no in /etc/systemd/logind.conf; see `trackside doctor`"
    )
