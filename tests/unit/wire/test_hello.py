"""What a segment says of its writer."""

import os
from pathlib import Path

import pytest
from fake_trainer import make_hello

from trackside.errors import RecordCorrupt, SegmentNotCreated, SegmentRefused
from trackside.wire.records import RecordKind, encode
from trackside.wire.ring import RingReader, RingWriter
from trackside.wire.segment import SegmentName


def test_hello_survives_every_restart_of_the_reader(shm_dir: Path) -> None:
    writer = RingWriter.create(
        shm_dir, SegmentName("run", 0, 1, "a"), ring_bytes=4096, hello=b"who speaks"
    )
    writer.publish(RecordKind.STEP, 1, b"")
    first = RingReader.open(writer.path)
    record = first.poll()
    assert record is not None
    first.commit(record.end)
    first.close()

    second = RingReader.open(writer.path)

    assert second.hello() == b"who speaks"
    second.close()
    writer.close()


def test_hello_that_was_damaged_is_refused(shm_dir: Path) -> None:
    writer = RingWriter.create(
        shm_dir, SegmentName("run", 0, 1, "a"), ring_bytes=4096, hello=b"who speaks"
    )
    with writer.path.open("r+b") as file:
        file.seek(4096)
        file.write(b"W")
    reader = RingReader.open(writer.path)

    with pytest.raises(SegmentRefused, match="hello does not match"):
        reader.hello()

    reader.close()
    writer.close()


def test_hello_beyond_the_bound_is_an_error_before_anything_is_made(shm_dir: Path) -> None:
    name = SegmentName("run", 0, 1, "a")

    with pytest.raises(SegmentNotCreated, match="config="):
        RingWriter.create(shm_dir, name, ring_bytes=4096, hello=bytes((1 << 20) + 1))

    assert not list(shm_dir.iterdir())


def test_hello_with_a_name_in_another_encoding_says_what_to_do(tmp_path: Path) -> None:
    of_latin_1 = tmp_path / os.fsdecode(b"M\xfcller")

    with pytest.raises(RecordCorrupt, match="is not UTF-8; choose a save_dir="):
        encode(make_hello(of_latin_1))
