"""The bytes on the wire, against bytes built by hand."""

import binascii
import struct
from pathlib import Path

import pytest

from trackside.errors import LayoutMismatch, SegmentRefused
from trackside.wire.layout import (
    HEADER_BYTES,
    DropCause,
    SegmentHeader,
    pack_segment_header,
    parse_segment_header,
)
from trackside.wire.records import RecordKind
from trackside.wire.ring import RingWriter
from trackside.wire.segment import SegmentName, remove

NAME = "demo.r3.4711.c0ffee.ring"
CAPACITY = 2048
CREATED_NS = 0x0102030405060708

# magic, version 1, header of 4096 bytes, capacity 2048, creation time
GOLDEN_START = "54524b5352494e47 01000000 00100000 0008000000000000 0807060504030201"
# "demo.r3.4711.c0ffee.ring", then its CRC-32 at 252
GOLDEN_NAME = "64656d6f2e72332e343731312e6330666665652e72696e67"


def header_page(**changes: int | bytes) -> bytes:
    """Build a header page from the table in docs/wire-format.md."""
    fields = {"magic": b"TRKSRING", "version": 1, "header_bytes": 4096, "capacity": CAPACITY}
    fields |= changes
    page = bytearray(4096)
    page[0:8] = fields["magic"]
    struct.pack_into("<IIQQ", page, 8, *list(fields.values())[1:4], CREATED_NS)
    page[64 : 64 + len(NAME)] = NAME.encode()
    struct.pack_into("<I", page, 252, binascii.crc32(page[:252]))
    return bytes(page)


def test_header_page_has_the_golden_bytes() -> None:
    page = pack_segment_header(SegmentHeader(NAME, CAPACITY, CREATED_NS))

    assert page == header_page()
    assert page[:32] == bytes.fromhex(GOLDEN_START)
    assert page[64:88] == bytes.fromhex(GOLDEN_NAME)
    assert page[252:256] == bytes.fromhex("53fea36e")
    assert not any(page[256:])


def test_segment_file_has_the_golden_bytes(shm_dir: Path) -> None:
    name = SegmentName.parse(NAME)
    assert name is not None
    writer = RingWriter.create(shm_dir, name, ring_bytes=CAPACITY, clock=lambda: CREATED_NS)
    writer.publish(RecordKind.STEP, 300, b"meta", [(64, memoryview(b"payload!"))], 72)
    writer.count_drop(DropCause.COPY_LATE, 7)
    found = writer.path.read_bytes()
    writer.close()
    remove(writer.path)

    payload = bytes(64) + b"payload!"
    fixed = struct.pack(
        "<4sHHQQQQQIII",
        b"TSRC",
        1,  # STEP
        0,
        1,  # sequence number
        0,  # start cursor
        300,  # step
        CREATED_NS,
        72,  # payload bytes
        4,  # metadata bytes
        binascii.crc32(payload),  # a payload below 4 KiB: a plain CRC
        binascii.crc32(b"meta"),
    )
    record = fixed + struct.pack("<I", binascii.crc32(fixed))
    record += b"meta".ljust(64, b"\0") + payload.ljust(128, b"\0")
    expected = bytearray(header_page() + record.ljust(CAPACITY, b"\0"))
    struct.pack_into("<QQQ", expected, 256, 256, 256, 0)  # write, reserved, state
    struct.pack_into("<Q", expected, 384 + 8 * 2, 7)
    assert found == expected
    assert found[4096:4160] == bytes.fromhex(
        "54535243 0100 0000 0100000000000000 0000000000000000 2c01000000000000"
        "0807060504030201 4800000000000000 04000000 69531499 3514f2d7 6d875f85"
    )


def test_closing_stores_the_closed_state(shm_dir: Path) -> None:
    name = SegmentName.parse(NAME)
    assert name is not None
    writer = RingWriter.create(shm_dir, name, ring_bytes=CAPACITY)
    writer.publish(RecordKind.CLOSE, 0, b"")
    writer.close()

    (state,) = struct.unpack_from("<Q", writer.path.read_bytes(), 272)

    remove(writer.path)
    assert state == 1


def test_header_round_trips() -> None:
    header = SegmentHeader(NAME, CAPACITY, CREATED_NS)

    parsed = parse_segment_header(pack_segment_header(header), NAME, HEADER_BYTES + CAPACITY)

    assert parsed == header


def test_another_version_is_told_apart_from_garbage() -> None:
    with pytest.raises(LayoutMismatch, match=r"wire version 2, this side reads 1; upgrade"):
        parse_segment_header(header_page(version=2), NAME, HEADER_BYTES + CAPACITY)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"magic": b"TRKSRINX"}, "magic is b'TRKSRINX'"),
        ({"header_bytes": 8192}, "header of 8192"),
        ({"capacity": 0}, "ring of 0 bytes"),
        ({"capacity": 2048 + 32}, "ring of 2080 bytes"),
        ({"capacity": (1 << 64) - 64}, "ring of 18446744073709551552 bytes"),
        ({"capacity": 4096}, "file has 6144 bytes, its header says 8192"),
    ],
)
def test_contradicting_header_is_refused_by_name(
    changes: dict[str, int | bytes], complaint: str
) -> None:
    with pytest.raises(SegmentRefused, match=complaint) as caught:
        parse_segment_header(header_page(**changes), NAME, HEADER_BYTES + CAPACITY)

    assert NAME in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_changed_bit_of_the_fixed_header_is_refused() -> None:
    page = header_page()

    for position in range(256):
        for bit in range(8):
            damaged = bytearray(page)
            damaged[position] ^= 1 << bit
            with pytest.raises(SegmentRefused):
                parse_segment_header(bytes(damaged), NAME, HEADER_BYTES + CAPACITY)


def test_renamed_segment_is_refused() -> None:
    with pytest.raises(SegmentRefused, match=f"written as '{NAME}'"):
        parse_segment_header(header_page(), "x.r0.1.a.ring", HEADER_BYTES + CAPACITY)


def test_short_file_is_refused() -> None:
    with pytest.raises(SegmentRefused, match="100 bytes are too few"):
        parse_segment_header(header_page()[:100], NAME, 100)


def test_hello_lies_between_the_header_and_the_ring(shm_dir: Path) -> None:
    name = SegmentName.parse(NAME)
    assert name is not None
    hello = bytes(range(256)) * 17  # 4352 bytes: one page and a little
    writer = RingWriter.create(shm_dir, name, ring_bytes=CAPACITY, hello=hello)
    writer.publish(RecordKind.STEP, 1, b"meta")
    found = writer.path.read_bytes()
    writer.close()
    remove(writer.path)

    assert struct.unpack_from("<II", found, 32) == (4352, binascii.crc32(hello))
    assert found[4096 : 4096 + 4352] == hello
    assert not any(found[4096 + 4352 : 3 * 4096])
    assert found[3 * 4096 :][:4] == b"TSRC"
    assert len(found) == 3 * 4096 + CAPACITY


def test_hello_of_a_hostile_length_is_refused() -> None:
    page = bytearray(header_page())
    struct.pack_into("<I", page, 32, 0xFFFFFFFF)
    struct.pack_into("<I", page, 252, binascii.crc32(page[:252]))

    with pytest.raises(SegmentRefused, match="hello of 4294967295"):
        parse_segment_header(bytes(page), NAME, 4096 + CAPACITY)
