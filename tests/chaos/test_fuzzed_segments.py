"""Any bytes in a segment: a refusal or a counted damage, never anything else.

Everything that the daemon does with a record runs here in one process: scanner, stream, the
worker's analysis, and what is made of its report for the files.
"""

import contextlib
import math
import secrets
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgpack
import pytest
from fake_trainer import FakeRank, make_hello, make_step
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trackside.errors import RecordCorrupt
from trackside.wire.layout import HEADER_BYTES, RECORD_HEADER_BYTES, SegmentHeader
from trackside.wire.records import Hello, RecordKind, encode
from trackside.wire.ring import RingReader, RingWriter
from trackside.wire.segment import SegmentName, remove
from tracksided.analysis import analyse
from tracksided.assemble import RankStep, assemble
from tracksided.ingest.segments import SegmentScanner
from tracksided.ingest.stream import Delivery, RankStream
from tracksided.reports import StepReport
from tracksided.samples import StepSamples, build_sample
from tracksided.sinks import event_protos
from tracksided.sinks import json_file as sink

pytestmark = [
    pytest.mark.integration,
    # Invalid numbers in damaged arrays make numpy warn; in the daemon that is one log line.
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
]
FUZZ = settings(
    max_examples=150,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
STEPS = 3
MAX_CELLS = 1 << 24  # beyond, the worker's limit of memory is what ends it
PAGE_CRC_AT, HELLO_CRC_AT = 252, 36
CURSOR_WORDS = (256, 264, 272, 640)


@dataclass
class Image:
    """The bytes of a sound segment, and where things lie in it."""

    name: str
    content: bytes
    ring_start: int
    starts: list[int]
    ends: list[int]


def make_image(directory: Path) -> Image:
    rank = FakeRank(directory, make_hello(directory), nonce="image", ring_bytes=1 << 14)
    for step in range(1, STEPS + 1):
        rank.publish(step, loss=1.0)
    rank.close(steps=STEPS)
    path = rank.writer.path
    content = path.read_bytes()
    reader = RingReader.open(path)
    records = list(iter(reader.poll, None))
    starts, ends = [record.start for record in records], [record.end for record in records]
    ring_start = reader.header.ring_start
    del records
    reader.close()
    remove(path)
    return Image(path.name, content, ring_start, starts, ends)


@contextlib.contextmanager
def served(directory: Path, content: bytes, name: str) -> Iterator[list[RankStream]]:
    path = directory / name
    path.write_bytes(content)
    path.chmod(0o600)
    streams = SegmentScanner(directory).look()
    try:
        yield streams
    finally:
        for stream in streams:
            stream.close(remove=True)
        path.unlink(missing_ok=True)


def process(stream: RankStream) -> list[int]:
    """Do with a segment what daemon and worker do; return the steps that were analysed."""
    done = []
    for _ in range(4):
        for delivery in stream.poll():
            report = analysed(stream, delivery)
            for _ in serialized(report):
                pass
            done.append(delivery.step.step)
            stream.settle(delivery.end)
    stream.has_ended()
    stream.health()
    return done


def analysed(stream: RankStream, delivery: Delivery) -> StepReport:
    ranks = [RankStep(stream.hello, delivery.step)]
    calls = delivery.step.attention
    if any(len(c.heads) * len(c.query_rows) * c.num_keys > MAX_CELLS for c in calls):
        return assemble(ranks, None, failures={"worker": "memory"})
    try:
        record = stream.reader.read_at(delivery.start)
        sample = build_sample(stream.hello, delivery.step, record.payload)
    except RecordCorrupt as error:
        return assemble(ranks, None, failures={"worker": str(error)})
    analysis = analyse(
        StepSamples("run", delivery.step.step, (sample,)),
        visualize=("statistics",),
        with_pictures=False,
        with_statistics=True,
    )
    return assemble(ranks, analysis)


def serialized(report: StepReport) -> Iterator[bytes]:
    yield sink.encode(report.history)
    yield sink.encode(report.statistics)
    yield from event_protos.scalar_events(report.scalars, report.history["timestamp"])
    yield from event_protos.text_events(report.texts, 0.0)
    yield from event_protos.histogram_events(report.histograms, 0.0)


@pytest.fixture
def image(shm_dir: Path) -> Image:
    return make_image(shm_dir)


def test_a_sound_segment_is_processed_whole(shm_dir: Path, image: Image) -> None:
    with served(shm_dir, image.content, image.name) as (stream,):
        assert process(stream) == list(range(1, STEPS + 1))
        assert stream.health().corrupt_records == 0


@FUZZ
@given(st.lists(st.tuples(st.integers(0, 2**32), st.binary(min_size=1, max_size=64)), max_size=6))
def test_bytes_written_anywhere(
    shm_dir: Path, image: Image, writes: list[tuple[int, bytes]]
) -> None:
    content = bytearray(image.content)
    for place, piece in writes:
        at = place % (len(content) - len(piece))
        content[at : at + len(piece)] = piece
    with served(shm_dir, bytes(content), image.name) as streams:
        for stream in streams:
            done = process(stream)
            assert set(done) <= set(range(1, STEPS + 1))


words = st.one_of(
    st.integers(0, 2**64 - 1),
    st.sampled_from([0, 1, 63, 64, 128, 4096, 1 << 14, 2**63, 2**64 - 64]),
)


@FUZZ
@given(st.dictionaries(st.sampled_from(CURSOR_WORDS), words), st.integers(0, 2**20))
def test_any_cursors_and_any_size(
    shm_dir: Path, image: Image, cursors: dict[int, int], size: int
) -> None:
    content = bytearray(image.content)
    for offset, value in cursors.items():
        content[offset : offset + 8] = struct.pack("<Q", value)
    cut = bytes(content[:size]) if size % 3 == 0 else bytes(content)
    with served(shm_dir, cut, image.name) as streams:
        for stream in streams:
            process(stream)


@FUZZ
@given(st.integers(0, STEPS), st.integers(4, 55), st.binary(min_size=1, max_size=8))
def test_record_headers_that_lie_under_a_right_checksum(
    shm_dir: Path, image: Image, record: int, offset: int, piece: bytes
) -> None:
    content = bytearray(image.content)
    start = image.ring_start + image.starts[record]
    end = min(offset + len(piece), 56)
    content[start + offset : start + end] = piece[: end - offset]
    if offset % 2:  # the metadata lie, too
        body = start + RECORD_HEADER_BYTES + offset
        content[body : body + len(piece)] = piece
        metadata_bytes = struct.unpack_from("<I", content, start + 48)[0]
        first = start + RECORD_HEADER_BYTES
        crc = zlib.crc32(content[first : first + metadata_bytes])
        struct.pack_into("<I", content, start + 56, crc)
    struct.pack_into("<I", content, start + 60, zlib.crc32(content[start : start + 60]))
    with served(shm_dir, bytes(content), image.name) as (stream,):
        process(stream)


@FUZZ
@given(st.binary(max_size=4096), st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1))
def test_segment_headers_that_lie_under_a_right_checksum(
    shm_dir: Path, image: Image, hello: bytes, hello_bytes: int, capacity: int
) -> None:
    content = bytearray(image.content)
    content[HEADER_BYTES : HEADER_BYTES + len(hello)] = hello
    if capacity % 2:
        struct.pack_into("<Q", content, 16, capacity)
    size = hello_bytes if hello_bytes % 2 else len(hello)
    struct.pack_into("<I", content, 32, size)
    struct.pack_into("<I", content, HELLO_CRC_AT, zlib.crc32(hello[:size]))
    struct.pack_into("<I", content, PAGE_CRC_AT, zlib.crc32(content[:PAGE_CRC_AT]))
    with served(shm_dir, bytes(content), image.name) as streams:
        assert streams == []


numbers = st.one_of(
    st.integers(-(2**63), 2**64 - 1), st.floats(), st.sampled_from([0, 1, -1, 2**63, math.nan])
)
values = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, st.text(max_size=20), st.binary(max_size=20)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)


def change(plain: Any, place: int, value: Any) -> None:
    """Replace one of the leaves or branches of nested dictionaries and lists."""
    spots: list[tuple[Any, Any]] = []

    def walk(node: Any) -> None:
        entries = node.items() if isinstance(node, dict) else enumerate(node)
        for key, entry in list(entries):
            spots.append((node, key))
            if isinstance(entry, dict | list):
                walk(entry)

    walk(plain)
    node, key = spots[place % len(spots)]
    old = node[key]
    # A value of the same type goes deeper than one that the decoder refuses.
    node[key] = value if not isinstance(old, str) or isinstance(value, str) else old + "\0/.."


@FUZZ
@given(st.lists(st.tuples(st.integers(0, 10**6), values), min_size=1, max_size=3))
def test_any_metadata(shm_dir: Path, changes: list[tuple[int, Any]]) -> None:
    rank = FakeRank(shm_dir, make_hello(shm_dir), nonce=secrets.token_hex(4), ring_bytes=1 << 15)
    try:
        rank.publish(1)
        reader = RingReader.open(rank.writer.path, read_only=True)
        record = reader.poll()
        assert record is not None
        plain = msgpack.unpackb(record.metadata)
        payload = bytes(record.payload)
        del record
        reader.close()
        for place, value in changes:
            change(plain, place, value)
        step = plain["step"] if isinstance(plain.get("step"), int) else 1
        rank.writer.publish(
            RecordKind.STEP,
            step % 2**64,
            msgpack.packb(plain),
            [(0, memoryview(payload))],
            len(payload),
        )
        (stream,) = SegmentScanner(shm_dir).look()
        try:
            assert process(stream)[:1] == [1]
        finally:
            stream.close(remove=False)
    finally:
        rank.abandon()
        remove(rank.writer.path)


@FUZZ
@given(st.lists(st.tuples(st.integers(0, 10**6), values), min_size=1, max_size=3))
def test_any_hello(shm_dir: Path, changes: list[tuple[int, Any]]) -> None:
    plain = msgpack.unpackb(encode(make_hello(shm_dir, config={"a": [1, {"b": 2.0}]})))
    for place, value in changes:
        change(plain, place, value)
    name = SegmentName("fake-run", 0, 1, secrets.token_hex(4))
    writer = RingWriter.create(shm_dir, name, ring_bytes=1 << 14, hello=msgpack.packb(plain))
    try:
        writer.publish(RecordKind.STEP, 1, encode(make_step(1, attention=(), gradients=None)))
        for stream in SegmentScanner(shm_dir).look():
            assert isinstance(stream.hello, Hello)
            assert process(stream) == [1]
            sink.encode(stream.hello.config)
            stream.close(remove=False)
    finally:
        writer.close()
        remove(writer.path)


def test_layout_of_the_header_is_what_these_tests_take_it_for(image: Image) -> None:
    (crc,) = struct.unpack_from("<I", image.content, PAGE_CRC_AT)
    assert crc == zlib.crc32(image.content[:PAGE_CRC_AT])
    (hello_crc,) = struct.unpack_from("<I", image.content, HELLO_CRC_AT)
    (hello_bytes,) = struct.unpack_from("<I", image.content, 32)
    assert hello_crc == zlib.crc32(image.content[HEADER_BYTES : HEADER_BYTES + hello_bytes])
    header = SegmentHeader(image.name, 1 << 14, 0, hello_bytes, hello_crc)
    assert header.ring_start == image.ring_start
