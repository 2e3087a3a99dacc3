"""The digest of payloads, against a plain loop."""

import itertools
import random
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trackside.wire.payload import Payload, digest_of

STEP = 1 << 20
ROW = 8192
LARGE = 1 << 16  # from here on, rows are added up from the array, not from the copy
SIZES = [0, 1, 7, 8, ROW - 1, ROW, ROW + 1, 3 * ROW + 5, STEP - 1, STEP, STEP + 1, 3 * STEP + 9]


def naive_digest(payload: bytes) -> int:
    """Follow docs/wire-format.md word by word."""
    sums = b""
    whole = len(payload) // ROW * ROW
    for start in range(0, whole, ROW):
        words = struct.unpack_from(f"<{ROW // 8}Q", payload, start)
        sums += (sum(words) % 2**64).to_bytes(8, "little")
    return zlib.crc32(sums + payload[whole:])


@pytest.mark.parametrize("size", SIZES)
def test_digest_is_what_the_format_says(size: int) -> None:
    payload = random.Random(size).randbytes(size)

    assert digest_of(memoryview(payload)) == naive_digest(payload)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("pieces", [1, 2, 5])
def test_copy_digests_what_it_wrote(size: int, pieces: int) -> None:
    source = random.Random(size).randbytes(size)
    cuts = [size * i // pieces for i in range(pieces + 1)]
    arrays = [(a, memoryview(source)[a:b]) for a, b in itertools.pairwise(cuts)]
    target = bytearray(b"\xff" * size)

    digest = Payload.check(arrays, size).copy_into(memoryview(target))

    assert target == source
    assert digest == naive_digest(source)


@given(
    lengths=st.lists(
        st.one_of(st.integers(0, 2 * ROW), st.integers(LARGE - ROW, LARGE + 3 * ROW)), max_size=6
    ),
    gaps=st.lists(st.integers(0, 2 * ROW), min_size=7, max_size=7),
    seed=st.integers(0, 1000),
)
def test_large_and_small_arrays_in_any_order(
    lengths: list[int], gaps: list[int], seed: int
) -> None:
    source = random.Random(seed)
    expected, arrays = bytearray(gaps[0]), []
    for length, gap in zip(lengths, gaps[1:], strict=False):
        array = source.randbytes(length)
        arrays.append((len(expected), memoryview(array)))
        expected += array + bytes(gap)
    target = bytearray(b"\xff" * len(expected))

    digest = Payload.check(arrays, len(expected)).copy_into(memoryview(target))

    assert target == expected
    assert digest == naive_digest(bytes(expected))


def test_gaps_read_as_zeros() -> None:
    target = bytearray(b"\xff" * 9000)

    Payload.check([(10, memoryview(b"ab")), (8000, memoryview(b"cd"))], 9000).copy_into(
        memoryview(target)
    )

    assert target == bytes(10) + b"ab" + bytes(7988) + b"cd" + bytes(998)


def test_arrays_of_any_shape_are_copied_row_major() -> None:
    array = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    target = bytearray(96)

    Payload.check([(0, memoryview(array))], 96).copy_into(memoryview(target))

    assert target == array.tobytes()


@pytest.mark.parametrize(
    ("arrays", "nbytes"),
    [
        ([(0, b"abcd"), (3, b"x")], 8),
        ([(4, b"abcd"), (0, b"x")], 8),
        ([(5, b"abcd")], 8),
        ([(-1, b"a")], 8),
        ([(9, b"")], 8),
    ],
)
def test_impossible_places_are_refused(arrays: list[tuple[int, bytes]], nbytes: int) -> None:
    with pytest.raises(ValueError, match="does not fit between"):
        Payload.check([(offset, memoryview(part)) for offset, part in arrays], nbytes)


def test_strided_array_is_refused() -> None:
    strided = memoryview(np.zeros((4, 4), dtype=np.int32)[:, ::2])

    with pytest.raises(TypeError):
        Payload.check([(0, strided)], 64)


@given(
    size=st.integers(1, 3 * ROW),
    seed=st.integers(0, 1000),
    place=st.floats(0, 1, exclude_max=True),
    flip=st.integers(1, 255),
)
def test_one_changed_byte_changes_the_digest(size: int, seed: int, place: float, flip: int) -> None:
    payload = bytearray(random.Random(seed).randbytes(size))
    before = digest_of(memoryview(payload))

    payload[int(place * size)] ^= flip

    assert digest_of(memoryview(payload)) != before


def test_swapped_rows_change_the_digest() -> None:
    payload = random.Random(1).randbytes(2 * ROW)

    assert digest_of(memoryview(payload[ROW:] + payload[:ROW])) != digest_of(memoryview(payload))
