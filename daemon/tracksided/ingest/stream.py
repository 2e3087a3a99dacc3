"""One rank's segment as the daemon sees it: deliveries in, cursor moves out."""

import logging
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from trackside.errors import RecordCorrupt
from trackside.wire.records import Close, Hello, RecordKind, Step, decode
from trackside.wire.ring import Record, RingReader

logger = logging.getLogger(__name__)

MAX_RECORDS_PER_POLL = 256  # one rank cannot keep the loop from the others


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


class RankStream:
    """Reads one segment and moves its cursor over the contiguous prefix of settled records."""

    def __init__(self, reader: RingReader, hello: Hello) -> None:
        self.reader = reader
        self.hello = hello
        self.close_record: Close | None = None
        self.last_step = 0
        self.malformed = 0
        self._outstanding: deque[int] = deque()
        self._settled: set[int] = set()

    @property
    def nonce(self) -> str:
        """What tells this segment from every other one of the same run."""
        return self.reader.name.nonce

    def poll(self) -> Iterator[Delivery]:
        """Yield newly published steps; what cannot be decoded is counted and passed over."""
        for _ in range(MAX_RECORDS_PER_POLL):
            record = self.reader.poll()
            if record is None:
                return
            self._outstanding.append(record.end)
            delivery = self._decode(record)
            if delivery is None:
                self.settle(record.end)
            else:
                self.last_step = delivery.step.step
                yield delivery

    def settle(self, end: int) -> None:
        """Note that the record that ends at cursor ``end`` needs nothing more."""
        self._settled.add(end)
        cursor = None
        while self._outstanding and self._outstanding[0] in self._settled:
            cursor = self._outstanding.popleft()
            self._settled.discard(cursor)
        if cursor is not None:
            self.reader.commit(cursor)

    def has_ended(self) -> bool:
        """Tell whether the writer is gone and all that it published has been read."""
        # Liveness first: a record committed between the two looks must not be missed.
        writer_gone = self.reader.is_closed or not self.reader.is_writer_alive()
        return writer_gone and self.reader.is_drained

    @property
    def is_settled(self) -> bool:
        """Tell whether every record read so far is settled."""
        return not self._outstanding

    def _decode(self, record: Record) -> Delivery | None:
        try:
            if record.kind is RecordKind.CLOSE:
                self.close_record = decode(Close, record.metadata)
                return None
            step = decode(Step, record.metadata)
            _check_step(step, record)
        except RecordCorrupt as error:
            self.malformed += 1
            if self.malformed == 1:
                logger.warning(
                    "%s: record %d left out: %s", self.reader.path.name, record.sequence, error
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


def _check_step(step: Step, record: Record) -> None:
    if step.step != record.step or step.step < 1:
        raise RecordCorrupt(f"metadata says step {step.step}, header {record.step}")
