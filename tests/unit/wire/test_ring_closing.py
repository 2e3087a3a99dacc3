"""What is left of a ring when its writer or its reader ends, or forks."""

import errno
import mmap
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ring_records import publish

from trackside.wire import segment
from trackside.wire.ring import DropCause, PublishResult, RingReader, RingWriter
from trackside.wire.segment import SegmentName

MakeWriter = Callable[..., RingWriter]


def test_closing_a_drained_ring_removes_it(make_writer: MakeWriter) -> None:
    writer = make_writer()
    publish(writer, 1)
    reader = RingReader.open(writer.path)
    record = reader.poll()
    assert record is not None
    reader.commit(record.end)

    writer.close()

    assert not any(writer.path.parent.iterdir())
    assert reader.is_closed
    assert reader.is_drained
    assert not reader.is_writer_alive()


def test_closing_a_ring_that_was_never_used_removes_it(make_writer: MakeWriter) -> None:
    writer = make_writer()

    writer.close()

    assert not any(writer.path.parent.iterdir())


def test_closed_ring_with_unread_records_stays_and_shrinks(make_writer: MakeWriter) -> None:
    writer = make_writer(1 << 20)
    content = np.random.default_rng(0).bytes(100_000)
    publish(writer, 1, content)
    before = writer.path.stat().st_blocks * 512

    writer.close()

    assert before >= 1 << 20
    assert writer.path.stat().st_blocks * 512 < 120_000
    reader = RingReader.open(writer.path)
    record = reader.poll()
    assert record is not None
    assert record.payload == content
    assert reader.is_closed
    reader.remove()
    assert not any(writer.path.parent.iterdir())


def test_closing_gives_back_only_the_free_part_of_a_wrapped_ring(
    make_writer: MakeWriter,
) -> None:
    writer = make_writer(1 << 18)
    reader = RingReader.open(writer.path)
    contents = [np.random.default_rng(i).bytes(60_000) for i in range(7)]
    for step, content in enumerate(contents):
        publish(writer, step, content)
        if step < 5:
            record = reader.poll()
            assert record is not None
            reader.commit(record.end)

    writer.close()

    rest = [bytes(record.payload) for record in iter(RingReader.open(writer.path).poll, None)]
    assert rest == contents[5:]


def test_closing_does_without_the_memory_that_a_file_system_keeps(
    make_writer: MakeWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not every kernel and file system can take the memory of a part of a file back."""
    writer = make_writer(1 << 18)
    publish(writer, 1, bytes(100))
    monkeypatch.setattr(writer, "_memory", Unpunchable(writer._memory))

    writer.close()

    assert not segment.is_writer_alive(writer.path)
    reader = RingReader.open(writer.path)
    assert reader.is_closed
    assert reader.poll() is not None
    reader.close()


class Unpunchable:
    """A map of a file on a file system without holes."""

    def __init__(self, memory: mmap.mmap) -> None:
        self._memory = memory

    def madvise(self, *_: int) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    def size(self) -> int:
        return self._memory.size()

    def close(self) -> None:
        self._memory.close()


def test_closed_writer_is_inactive(make_writer: MakeWriter) -> None:
    writer = make_writer()
    writer.close()
    writer.close()
    writer.count_drop(DropCause.OTHER)

    assert publish(writer, 1) is PublishResult.INACTIVE
    assert not writer.has_room(0)
    assert writer.drops == {}


def test_forked_child_changes_nothing(make_writer: MakeWriter) -> None:
    writer = make_writer()
    publish(writer, 1)
    before = writer.path.read_bytes()
    child = os.fork()
    if child == 0:
        is_silent = publish(writer, 2) is PublishResult.INACTIVE
        writer.count_drop(DropCause.OTHER)
        writer.close()
        os._exit(0 if is_silent else 1)

    _, status = os.waitpid(child, 0)

    assert os.waitstatus_to_exitcode(status) == 0
    assert writer.path.read_bytes() == before
    assert segment.is_writer_alive(writer.path)
    assert publish(writer, 3) is PublishResult.PUBLISHED


def test_views_outlive_a_closed_reader(make_writer: MakeWriter) -> None:
    writer = make_writer()
    publish(writer, 1, b"still here")
    reader = RingReader.open(writer.path)
    record = reader.poll()
    assert record is not None

    reader.close()
    reader.close()

    assert record.payload == b"still here"


def test_a_writer_that_dies_in_a_record_leaves_the_ones_before_and_one_torn(
    shm_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = SegmentName("run", 0, os.getpid(), "torn")
    child = os.fork()
    if child == 0:
        writer = RingWriter.create(shm_dir, name, ring_bytes=4096)
        publish(writer, 1, b"whole")
        monkeypatch.setattr(writer, "_write_record", lambda *_: os._exit(0))
        publish(writer, 2, b"never there")
        os._exit(1)
    _, status = os.waitpid(child, 0)

    reader = RingReader.open(shm_dir / name.file_name)
    steps = [record.step for record in iter(reader.poll, None)]

    assert os.waitstatus_to_exitcode(status) == 0
    assert steps == [1]
    assert not reader.is_closed
    assert (reader.torn_records, reader.corrupt_records) == (1, 0)
    reader.close()
    segment.remove(shm_dir / name.file_name)


@pytest.mark.parametrize("num_bytes", [0, 4096])
def test_a_file_that_was_cut_is_touched_no_more(make_writer: MakeWriter, num_bytes: int) -> None:
    """To touch a page behind the file's end would kill the training: SIGBUS."""
    writer = make_writer()
    assert publish(writer, 1) is PublishResult.PUBLISHED
    os.truncate(writer.path, num_bytes)

    assert writer.was_cut
    assert publish(writer, 2) is PublishResult.INACTIVE
    assert not writer.has_room(64)
    writer.count_drop(DropCause.ERROR)
    assert writer.drops == {}
    writer.close()

    assert not segment.is_writer_alive(writer.path)
    assert writer.path.stat().st_size == num_bytes
    segment.remove(writer.path)
