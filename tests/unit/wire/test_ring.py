"""Publishing and reading in one process."""

import struct
from collections.abc import Callable

import numpy as np
import pytest
from ring_records import publish

from trackside.errors import RecordCorrupt
from trackside.wire.records import RecordKind
from trackside.wire.ring import DropCause, PublishResult, RingReader, RingWriter

STEP = RecordKind.STEP
MakeWriter = Callable[..., RingWriter]


def test_record_comes_out_as_it_went_in(make_writer: MakeWriter) -> None:
    writer = make_writer(clock=lambda: 1234567)
    tensor = np.arange(6, dtype=np.float32).reshape(2, 3)

    result = writer.publish(RecordKind.CLOSE, 42, b"about", [(64, memoryview(tensor))], 100)

    record = RingReader.open(writer.path).poll()
    assert result is PublishResult.PUBLISHED
    assert record is not None
    assert (record.kind, record.step, record.sequence) == (RecordKind.CLOSE, 42, 1)
    assert record.time_ns == 1234567
    assert record.metadata == b"about"
    assert record.payload == bytes(64) + tensor.tobytes() + bytes(12)


def test_views_are_read_only(make_writer: MakeWriter) -> None:
    writer = make_writer()
    publish(writer, 1, b"abc")

    record = RingReader.open(writer.path).poll()

    assert record is not None
    with pytest.raises(TypeError):
        record.payload[0] = 1


def test_payload_starts_on_a_cache_line_of_the_map(make_writer: MakeWriter) -> None:
    writer = make_writer()
    reader = RingReader.open(writer.path)
    for step, size in ((1, 3), (2, 100), (3, 64)):
        publish(writer, step, bytes(size))
        record = reader.poll()

        assert record is not None
        address = np.frombuffer(record.payload, dtype=np.uint8).__array_interface__["data"][0]
        assert address % 64 == 0


def test_empty_ring_polls_none(make_writer: MakeWriter) -> None:
    reader = RingReader.open(make_writer().path)

    assert reader.poll() is None
    assert reader.is_drained
    assert reader.lag_bytes == 0


def test_full_ring_drops_the_new_record_and_keeps_the_old(make_writer: MakeWriter) -> None:
    writer = make_writer(1024)  # 8 records of 64 bytes header and 64 of metadata
    results = [publish(writer, step) for step in range(1, 12)]

    reader = RingReader.open(writer.path)
    steps = [record.step for record in iter(reader.poll, None)]

    assert results == [PublishResult.PUBLISHED] * 8 + [PublishResult.RING_FULL] * 3
    assert steps == list(range(1, 9))
    assert reader.drops == {"ring_full": 3}


def test_commit_makes_room(make_writer: MakeWriter) -> None:
    writer = make_writer(1024)
    reader = RingReader.open(writer.path)
    while publish(writer, 1) is PublishResult.PUBLISHED:
        pass
    record = reader.poll()
    assert record is not None
    assert publish(writer, 2) is PublishResult.RING_FULL

    reader.commit(record.end)

    assert writer.has_room(128)
    assert not writer.has_room(129)
    assert publish(writer, 2) is PublishResult.PUBLISHED


def test_polling_alone_makes_no_room(make_writer: MakeWriter) -> None:
    writer = make_writer(1024)
    reader = RingReader.open(writer.path)
    while publish(writer, 1) is PublishResult.PUBLISHED:
        pass

    drained = len(list(iter(reader.poll, None)))

    assert drained == 8
    assert publish(writer, 2) is PublishResult.RING_FULL
    assert publish(writer, 2) is not PublishResult.PUBLISHED


def test_reopened_reader_starts_at_the_durable_cursor(make_writer: MakeWriter) -> None:
    writer = make_writer()
    for step in (1, 2, 3):
        publish(writer, step)
    first = RingReader.open(writer.path)
    one, two = first.poll(), first.poll()
    assert one is not None
    assert two is not None
    first.commit(one.end)

    again = RingReader.open(writer.path).poll()

    assert again is not None
    assert (again.step, again.sequence) == (2, two.sequence)


def test_commit_never_moves_back(make_writer: MakeWriter) -> None:
    writer = make_writer()
    publish(writer, 1)
    publish(writer, 2)
    reader = RingReader.open(writer.path)
    one, two = reader.poll(), reader.poll()
    assert one is not None
    assert two is not None

    reader.commit(two.end)
    reader.commit(one.end)

    assert reader.lag_bytes == 0


@pytest.mark.parametrize("cursor", [64 * 1000, 33])
def test_commit_beyond_what_was_polled_is_a_bug_of_the_caller(
    make_writer: MakeWriter, cursor: int
) -> None:
    writer = make_writer()
    publish(writer, 1)
    reader = RingReader.open(writer.path)
    reader.poll()

    with pytest.raises(ValueError, match="cursor"):
        reader.commit(cursor)


def test_record_larger_than_the_ring_is_too_large(make_writer: MakeWriter) -> None:
    writer = make_writer(1024)

    results = [publish(writer, 1, bytes(size)) for size in (1024 - 64 - 64 + 1, 1024 - 64 - 64)]

    assert results == [PublishResult.TOO_LARGE, PublishResult.PUBLISHED]
    assert writer.drops == {"too_large": 1}


def test_record_as_large_as_the_ring_gets_in_wherever_the_cursor_stands(
    make_writer: MakeWriter,
) -> None:
    writer = make_writer(1024)
    reader = RingReader.open(writer.path)
    publish(writer, 1)
    small = reader.poll()
    assert small is not None
    reader.commit(small.end)

    first_try = publish(writer, 2, bytes(896))  # a pad takes the rest of the lap
    assert reader.poll() is None
    second_try = publish(writer, 3, bytes(896))

    record = reader.poll()
    assert first_try is PublishResult.RING_FULL
    assert second_try is PublishResult.PUBLISHED
    assert record is not None
    assert (record.step, record.sequence) == (3, 2)


def test_no_pad_is_put_over_what_is_not_read_yet(make_writer: MakeWriter) -> None:
    """From the middle of the ring a large record fits only behind a pad to its end."""
    writer = make_writer(4096)
    reader = RingReader.open(writer.path)
    quarter = bytes(4096 // 4 - 128)  # behind a header, and metadata of 64 bytes
    for step in range(1, 5):
        publish(writer, step, quarter)
    for _ in range(2):
        record = reader.poll()
        assert record is not None
        reader.commit(record.end)
    publish(writer, 5, quarter)

    result = publish(writer, 6, bytes(3456))

    assert result is PublishResult.RING_FULL
    assert [record.step for record in iter(reader.poll, None)] == [3, 4, 5]


def test_failed_copy_leaves_no_trace_but_a_count(make_writer: MakeWriter) -> None:
    writer = make_writer()
    with pytest.raises(ValueError, match="does not fit"):
        writer.publish(STEP, 1, b"", [(0, memoryview(b"abc"))], 2)
    with pytest.raises(struct.error):
        writer.publish(STEP, -1, b"")
    publish(writer, 2)

    reader = RingReader.open(writer.path)
    record = reader.poll()

    assert record is not None
    assert (record.step, record.sequence) == (2, 1)
    assert reader.poll() is None
    assert reader.drops == {"error": 1}
    with pytest.raises(struct.error):
        writer.publish(STEP, -1, b"")
    writer.close()
    assert reader.torn_records == 0


def test_drops_of_every_cause_reach_the_reader(make_writer: MakeWriter) -> None:
    writer = make_writer()
    for number, cause in enumerate(DropCause, start=1):
        writer.count_drop(cause, number)

    drops = RingReader.open(writer.path).drops

    assert drops == {
        "ring_full": 1,
        "too_large": 2,
        "copy_late": 3,
        "error": 4,
        "other": 5,
        "log_full": 6,
    }


def test_read_at_finds_a_polled_record_from_a_read_only_map(make_writer: MakeWriter) -> None:
    writer = make_writer()
    publish(writer, 1)
    publish(writer, 2, b"tensor")
    reader = RingReader.open(writer.path)
    reader.poll()
    record = reader.poll()
    assert record is not None

    copy = RingReader.open(writer.path, read_only=True).read_at(record.start)

    assert copy == record
    assert copy.payload == b"tensor"


def test_read_at_follows_the_other_reader_round_the_ring(make_writer: MakeWriter) -> None:
    writer = make_writer(1024)
    reader = RingReader.open(writer.path)
    worker = RingReader.open(writer.path, read_only=True)
    for step in range(1, 50):
        publish(writer, step, bytes(200))
        record = reader.poll()
        assert record is not None

        assert worker.read_at(record.start).step == step

        reader.commit(record.end)


@pytest.mark.parametrize("start", [-64, 1, 64, 128, 1 << 70])
def test_read_at_refuses_what_is_no_record(make_writer: MakeWriter, start: int) -> None:
    writer = make_writer()
    publish(writer, 1)
    reader = RingReader.open(writer.path, read_only=True)

    with pytest.raises(RecordCorrupt, match="cursor"):
        reader.read_at(start)


def test_read_at_refuses_what_was_committed(make_writer: MakeWriter) -> None:
    writer = make_writer()
    publish(writer, 1)
    reader = RingReader.open(writer.path)
    record = reader.poll()
    assert record is not None
    reader.commit(record.end)

    with pytest.raises(RecordCorrupt, match="no record at cursor 0"):
        RingReader.open(writer.path, read_only=True).read_at(record.start)


def test_read_only_reader_commits_nothing(make_writer: MakeWriter) -> None:
    writer = make_writer()
    publish(writer, 1)
    reader = RingReader.open(writer.path, read_only=True)
    record = reader.poll()
    assert record is not None

    with pytest.raises(ValueError, match="read-only"):
        reader.commit(record.end)
