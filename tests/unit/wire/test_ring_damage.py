"""Damaged and hostile bytes: nothing wrong comes out, nothing but our errors is raised."""

import binascii
import random
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ring_records import publish

from trackside.errors import SegmentRefused, TracksideError
from trackside.wire.records import RecordKind
from trackside.wire.ring import PublishResult, RingReader, RingWriter

RING = 4096
HEADER = 4096
MakeWriter = Callable[..., RingWriter]
Published = dict[int, tuple[int, bytes, bytes]]

# The fixtures give one segment to all examples of a test; each example restores its bytes.
SHARED_SEGMENT = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def filled(make_writer: MakeWriter) -> tuple[Path, bytes, Published]:
    """A ring in its third lap: its path, its bytes, and what was published by sequence."""
    writer = make_writer(RING)
    reader = RingReader.open(writer.path)
    rng = random.Random(5)
    published: Published = {}
    sequence = 0
    while not writer.has_room(RING) or sequence < 40:
        metadata, payload = rng.randbytes(rng.randrange(90)), rng.randbytes(rng.randrange(500))
        arrays = [(0, memoryview(payload))]
        result = writer.publish(RecordKind.STEP, 7, metadata, arrays, len(payload))
        if result is PublishResult.PUBLISHED:
            sequence += 1
            published[sequence] = (7, metadata, payload)
        elif sequence >= 40:
            break
        else:
            record = reader.poll()
            assert record is not None
            reader.commit(record.end)
    return writer.path, writer.path.read_bytes(), published


def drain(path: Path, published: Published) -> tuple[list[int], int]:
    """Read all there is; every record must be one that was published."""
    reader = RingReader.open(path)
    sequences = []
    try:
        for record in iter(reader.poll, None):
            content = (record.step, bytes(record.metadata), bytes(record.payload))
            assert content == published[record.sequence]
            sequences.append(record.sequence)
            assert reader.read_at(record.start).sequence == record.sequence
            reader.commit(record.end)
            del record
        assert reader.is_drained
        assert reader.lag_bytes == 0 or not sequences or reader.corrupt_records > 0
        return sequences, reader.corrupt_records
    finally:
        reader.close()


def record_starts(image: bytes) -> dict[int, int]:
    """Find sequence -> offset in the file of every unread record, by walking."""
    write, read = struct.unpack_from("<Q", image, 256)[0], struct.unpack_from("<Q", image, 640)[0]
    starts = {}
    while read < write:
        offset = HEADER + read % RING
        kind, sequence = struct.unpack_from("<H2xQ", image, offset + 4)
        payload, metadata = struct.unpack_from("<QI", image, offset + 40)
        if kind:
            starts[sequence] = offset
        read += 64 + -(-metadata // 64) * 64 + -(-payload // 64) * 64
    return starts


def rewrite(path: Path, image: bytes, offset: int, raw: bytes) -> None:
    path.write_bytes(image[:offset] + raw + image[offset + len(raw) :])


@SHARED_SEGMENT
@given(
    flips=st.lists(
        st.tuples(st.integers(0, HEADER + RING - 1), st.integers(1, 255)), min_size=1, max_size=8
    )
)
def test_flipped_bytes_never_come_out(
    filled: tuple[Path, bytes, Published], flips: list[tuple[int, int]]
) -> None:
    path, image, published = filled
    damaged = bytearray(image)
    for position, mask in flips:
        damaged[position] ^= mask
    path.write_bytes(damaged)

    try:
        drain(path, published)
    except TracksideError as error:
        assert path.name in str(error)  # noqa: PT017 - not raising is right too


@SHARED_SEGMENT
@given(position=st.integers(HEADER, HEADER + RING - 1), noise=st.binary(min_size=1, max_size=900))
def test_scribbled_ring_loses_only_what_was_hit(
    filled: tuple[Path, bytes, Published], position: int, noise: bytes
) -> None:
    path, image, published = filled
    noise = noise[: HEADER + RING - position]
    rewrite(path, image, position, noise)
    starts = record_starts(image)
    untouched = [
        sequence
        for sequence, start in starts.items()
        if start >= position + len(noise) or start + 64 * 12 <= position
    ]

    sequences, corrupt = drain(path, published)

    assert sequences == sorted(sequences)
    assert set(untouched) <= set(sequences)
    # A hit on padding loses nothing and may still be seen; a lost record is always counted.
    assert corrupt >= len(starts) - len(sequences)


@SHARED_SEGMENT
@given(
    which=st.integers(0, 100),
    payload_bytes=st.one_of(st.integers(0, 1 << 13), st.integers(0, (1 << 64) - 1)),
    metadata_bytes=st.one_of(st.integers(0, 1 << 13), st.integers(0, (1 << 32) - 1)),
)
def test_hostile_lengths_with_a_valid_checksum_stay_inside_the_ring(
    filled: tuple[Path, bytes, Published], which: int, payload_bytes: int, metadata_bytes: int
) -> None:
    path, image, published = filled
    starts = record_starts(image)
    offset = list(starts.values())[which % len(starts)]
    fixed = bytearray(image[offset : offset + 60])
    struct.pack_into("<QI", fixed, 40, payload_bytes, metadata_bytes)
    rewrite(path, image, offset, bytes(fixed) + struct.pack("<I", binascii.crc32(fixed)))

    drain(path, published)


@pytest.mark.parametrize("where", [0, 1, -1])
@pytest.mark.parametrize("byte", [0, 20, 63, 64, 130])
def test_one_damaged_record_is_skipped_and_counted_once(
    filled: tuple[Path, bytes, Published], where: int, byte: int
) -> None:
    path, image, published = filled
    starts = record_starts(image)
    lost = [s for s in starts if len(published[s][1]) > 0 and len(published[s][2]) > 70][where]
    position = starts[lost] + byte
    rewrite(path, image, position, bytes([image[position] ^ 0x40]))

    sequences, corrupt = drain(path, published)

    assert sequences == [s for s in starts if s != lost]
    assert corrupt == 1


def test_neighbouring_damaged_records_are_all_counted(
    filled: tuple[Path, bytes, Published],
) -> None:
    path, image, published = filled
    starts = record_starts(image)
    first, second, third, fourth, *_ = starts
    damaged = bytearray(image)
    for sequence in (second, third):
        damaged[starts[sequence]] ^= 1
    path.write_bytes(damaged)

    sequences, corrupt = drain(path, published)

    assert sequences[:2] == [first, fourth]
    assert corrupt == 2


def test_wholly_damaged_ring_can_be_used_again(make_writer: MakeWriter) -> None:
    writer = make_writer(RING)
    reader = RingReader.open(writer.path)
    while writer.publish(RecordKind.STEP, 1, b"m") is PublishResult.PUBLISHED:
        pass
    with writer.path.open("r+b") as file:
        file.seek(HEADER)
        file.write(b"\xaa" * RING)

    assert reader.poll() is None

    assert writer.publish(RecordKind.STEP, 2, b"m") is PublishResult.PUBLISHED
    record = reader.poll()
    assert record is not None
    assert record.step == 2
    assert reader.corrupt_records == RING // 128


def test_ring_full_of_believable_headers_is_read_in_linear_time(make_writer: MakeWriter) -> None:
    writer = make_writer(1 << 20)
    writer.publish(RecordKind.STEP, 1, b"", [], (1 << 20) - 64)
    ring = bytearray()
    for start in range(0, 1 << 20, 64):
        fixed = struct.pack(
            "<4sHHQQQQQIII",
            b"TSRC",
            2,
            0,
            start // 64 + 1,
            start,
            1,
            1,
            0,
            (1 << 20) - start - 64,
            0,
            0,
        )
        ring += fixed + struct.pack("<I", binascii.crc32(fixed))
    with writer.path.open("r+b") as file:
        file.seek(HEADER)
        file.write(ring)

    reader = RingReader.open(writer.path)

    assert reader.poll() is None  # one step: the length of an intact header is believed
    assert reader.corrupt_records == 1


@pytest.mark.parametrize("kind", [4, 255, 65535])
def test_unknown_kind_is_skipped_and_counted(make_writer: MakeWriter, kind: int) -> None:
    writer = make_writer()
    writer.publish(kind, 1, b"from the future")  # type: ignore[arg-type]  # a newer writer
    writer.publish(RecordKind.STEP, 2, b"m")
    reader = RingReader.open(writer.path)

    record = reader.poll()

    assert record is not None
    assert record.step == 2
    assert reader.corrupt_records == 1


def test_record_of_an_earlier_lap_is_not_taken_for_a_new_one(
    filled: tuple[Path, bytes, Published],
) -> None:
    path, image, published = filled
    starts = record_starts(image)
    first, *_ = starts
    header = bytearray(image[starts[first] : starts[first] + 60])
    (start,) = struct.unpack_from("<Q", header, 16)
    struct.pack_into("<Q", header, 16, start - RING)
    rewrite(path, image, starts[first], bytes(header) + struct.pack("<I", binascii.crc32(header)))

    sequences, corrupt = drain(path, published)

    assert first not in sequences
    assert corrupt == 1


def test_nonsense_in_the_read_cursor_never_frees_unread_records(make_writer: MakeWriter) -> None:
    writer = make_writer(1024)
    while publish(writer, 1) is PublishResult.PUBLISHED:
        pass

    for nonsense in (1, 1 << 40, (1 << 64) - 64):
        with writer.path.open("r+b") as file:
            file.seek(640)
            file.write(struct.pack("<Q", nonsense))

        assert publish(writer, 2) is PublishResult.RING_FULL


@pytest.mark.parametrize("cursor", [63, 1 << 50, 64 + 4096])
def test_impossible_write_cursor_is_refused_while_reading(
    make_writer: MakeWriter, cursor: int
) -> None:
    writer = make_writer(4096)
    reader = RingReader.open(writer.path)
    with writer.path.open("r+b") as file:
        file.seek(256)
        file.write(struct.pack("<Q", cursor))

    with pytest.raises(SegmentRefused, match=f"write cursor {cursor}"):
        reader.poll()
    with pytest.raises(SegmentRefused, match=f"write cursor {cursor}"):
        RingReader.open(writer.path)


def test_a_write_cursor_that_moved_back_is_refused(make_writer: MakeWriter) -> None:
    writer = make_writer(4096)
    reader = RingReader.open(writer.path)
    publish(writer, 1)
    publish(writer, 2)
    first = reader.poll()
    assert first is not None
    with writer.path.open("r+b") as file:
        file.seek(256)
        file.write(struct.pack("<Q", first.end))

    with pytest.raises(SegmentRefused, match=f"write cursor {first.end}"):
        reader.poll()


def test_a_commit_moves_over_all_that_was_skipped_behind_it(make_writer: MakeWriter) -> None:
    writer = make_writer(4096)
    reader = RingReader.open(writer.path)
    publish(writer, 1)
    for _ in range(3):
        writer.publish(77, 2, b"m")  # type: ignore[arg-type]  # of a version to come

    (record,) = iter(reader.poll, None)
    reader.commit(record.end)

    assert reader.lag_bytes == 0


def test_damage_hides_no_more_records_than_fit_into_it(
    filled: tuple[Path, bytes, Published],
) -> None:
    """A record behind it whose number says that more are lost is none."""
    path, image, published = filled
    starts = record_starts(image)
    first, second, third, *_ = starts
    num_lost = (starts[second] - starts[first]) // 64
    header = bytearray(image[starts[second] : starts[second] + 60])
    struct.pack_into("<Q", header, 8, first + num_lost + 1)
    damaged = bytearray(image)
    damaged[starts[first]] ^= 1
    forged = bytes(header) + struct.pack("<I", binascii.crc32(header))
    rewrite(path, bytes(damaged), starts[second], forged)

    sequences, corrupt = drain(path, published)

    assert sequences[0] == third
    assert corrupt == 2
