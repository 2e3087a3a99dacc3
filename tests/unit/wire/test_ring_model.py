"""The ring against a plain model: a list of records and two numbers."""

import os
import random
import secrets
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from trackside.wire.records import RecordKind
from trackside.wire.ring import DropCause, PublishResult, Record, RingReader, RingWriter
from trackside.wire.segment import SegmentName

LINE = 64


@dataclass(frozen=True)
class Item:
    """A record, or a pad where `metadata` is None."""

    start: int
    end: int
    sequence: int = 0
    step: int = 0
    metadata: bytes | None = None
    payload: bytes = b""


def lines(num_bytes: int) -> int:
    return -(-num_bytes // LINE) * LINE


class RingMachine(RuleBasedStateMachine):
    """Everything a trainer and a daemon may do, in any order, on a ring of a few lines."""

    @initialize(lines_in_ring=st.integers(16, 40))
    def create(self, lines_in_ring: int) -> None:
        self.directory = Path("/dev/shm") / f"ts-test-{secrets.token_hex(4)}"  # noqa: S108 - shared memory is the point
        self.directory.mkdir(mode=0o700)
        self.capacity = lines_in_ring * LINE
        name = SegmentName("model", 0, os.getpid(), "a")
        self.writer = RingWriter.create(self.directory, name, ring_bytes=self.capacity)
        self.reader = RingReader.open(self.writer.path)
        self.items: list[Item] = []
        self.write = self.read = self.position = 0
        self.sequence = 1
        self.drops: Counter[str] = Counter()
        self.polled: list[tuple[Record, Item]] = []
        self.is_closed = False

    @precondition(lambda self: not self.is_closed)
    @rule(
        metadata=st.binary(max_size=200),
        payload_bytes=st.one_of(st.integers(0, 300), st.integers(0, 2700)),
        cut=st.floats(0, 1),
        step=st.integers(0, 1 << 63),
    )
    def publish(self, metadata: bytes, payload_bytes: int, cut: float, step: int) -> None:
        payload = random.Random(step).randbytes(payload_bytes)
        middle = int(cut * payload_bytes)
        arrays = [(0, memoryview(payload)[:middle]), (middle, memoryview(payload)[middle:])]

        result = self.writer.publish(RecordKind.STEP, step, metadata, arrays, payload_bytes)

        assert result is self.expect_publish(step, metadata, payload)

    def expect_publish(self, step: int, metadata: bytes, payload: bytes) -> PublishResult:
        size = LINE + lines(len(metadata)) + lines(len(payload))
        if size > self.capacity:
            self.drops["too_large"] += 1
            return PublishResult.TOO_LARGE
        lap_left = self.capacity - self.write % self.capacity
        pad = 0 if size <= lap_left else lap_left
        free = self.capacity - (self.write - self.read)
        has_room = pad + size <= free
        if pad and (has_room or (pad + size > self.capacity and pad <= free)):
            self.items.append(Item(self.write, self.write + pad))
            self.write += pad
        if not has_room:
            self.drops["ring_full"] += 1
            return PublishResult.RING_FULL
        self.items.append(
            Item(self.write, self.write + size, self.sequence, step, metadata, payload)
        )
        self.write += size
        self.sequence += 1
        return PublishResult.PUBLISHED

    @rule()
    def poll(self) -> None:
        record = self.reader.poll()

        expected = self.expect_poll()
        if expected is None:
            assert record is None
            return
        assert record is not None
        assert (record.sequence, record.step) == (expected.sequence, expected.step)
        assert (record.start, record.end) == (expected.start, expected.end)
        self.polled.append((record, expected))

    def expect_poll(self) -> Item | None:
        for item in self.items:
            if item.start < self.position:
                continue
            self.position = item.end
            if item.metadata is not None:
                self.pass_pads()
                return item
        self.pass_pads()
        return None

    def pass_pads(self) -> None:
        """A pad that was passed and is next to be committed is committed by itself."""
        for item in self.items:
            if item.metadata is None and item.start == self.read and item.end <= self.position:
                self.read = item.end

    @precondition(lambda self: self.polled)
    @rule(which=st.integers(0, 1 << 16))
    def commit(self, which: int) -> None:
        _, item = self.polled[which % len(self.polled)]

        self.reader.commit(item.end)

        self.read = max(self.read, item.end)
        self.pass_pads()
        self.polled = [(record, kept) for record, kept in self.polled if kept.end > self.read]

    @rule()
    def reopen_reader(self) -> None:
        self.polled.clear()
        self.reader.close()
        self.reader = RingReader.open(self.writer.path)
        self.position = self.read

    @precondition(lambda self: not self.is_closed and self.items and self.read < self.write)
    @rule()
    def close_writer(self) -> None:
        self.writer.close()
        self.is_closed = True

    @precondition(lambda self: not self.is_closed)
    @rule(cause=st.sampled_from(DropCause), count=st.integers(1, 1000))
    def count_drop(self, cause: DropCause, count: int) -> None:
        self.writer.count_drop(cause, count)
        self.drops[cause.label] += count

    @invariant()
    def polled_records_keep_their_bytes(self) -> None:
        for record, item in self.polled:
            assert record.metadata == item.metadata
            assert record.payload == item.payload

    @invariant()
    def numbers_agree(self) -> None:
        assert self.reader.lag_bytes == self.write - self.read
        assert self.reader.is_drained == (self.position >= self.write)
        assert self.reader.drops == dict(self.drops)
        assert self.reader.is_closed == self.is_closed
        assert self.reader.is_writer_alive() == (not self.is_closed)
        assert self.reader.corrupt_records == 0
        assert self.reader.torn_records == 0
        if not self.is_closed:
            num_free = self.capacity - (self.write - self.read)
            assert self.writer.has_room(num_free)
            assert not self.writer.has_room(num_free + 1)

    def teardown(self) -> None:
        if not hasattr(self, "writer"):
            return
        self.polled.clear()
        self.reader.close()
        self.writer.close()
        shutil.rmtree(self.directory)


TestRingModel = RingMachine.TestCase
TestRingModel.settings = settings(max_examples=60, stateful_step_count=40)
