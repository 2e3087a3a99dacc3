"""The payload of a record: arrays copied into the ring, and a digest at the speed of memory.

The digest: the payload is cut into rows of `DIGEST_ROW_BYTES`. The little-endian u64 words of each
whole row are added modulo 2^64; a CRC-32 runs over these sums, then over the bytes behind the last
whole row. One damaged word always changes it. Why not a plain CRC:
``docs/adr/0001-payload-checksum.md``.
"""

import zlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

DIGEST_ROW_BYTES = 8192
# Of a large array so much is added up, then copied, which finds it in the cache. Copies of this
# size go past the cache on their way out (measured: from 1 MiB on), and are the faster for it.
COPY_STEP_BYTES = 1 << 20
# Smaller arrays are copied, and their rows added up together afterwards.
_LARGE_BYTES = 1 << 16

_WORD = np.dtype("<u8")
_ROW_WORDS = DIGEST_ROW_BYTES // _WORD.itemsize
_ZEROS = bytes(4096)  # longer gaps are filled piece by piece


class Payload(NamedTuple):
    """Arrays and where they go, checked before a byte of the ring is touched."""

    chunks: tuple[tuple[int, memoryview], ...]
    """Offset and flat bytes, ascending."""

    nbytes: int

    @classmethod
    def check(cls, arrays: Sequence[tuple[int, memoryview]], nbytes: int) -> "Payload":
        """Flatten the arrays.

        Raises:
            ValueError: arrays overlap, descend, or leave the payload.
            TypeError: an array is not contiguous.
        """
        chunks: list[tuple[int, memoryview]] = []
        filled = 0
        for offset, array in arrays:
            flat = array.cast("B") if array.nbytes else memoryview(b"")
            if offset < filled or offset + len(flat) > nbytes:
                raise ValueError(
                    f"array at {offset} of {len(flat)} bytes does not fit between {filled} and "
                    f"the payload's end at {nbytes}"
                )
            chunks.append((offset, flat))
            filled = offset + len(flat)
        return cls(tuple(chunks), nbytes)

    def copy_into(self, target: memoryview) -> int:
        """Fill ``target``, zeros in the gaps, and return its digest."""
        digest = PayloadDigest(target)
        written = 0
        for offset, flat in self.chunks:
            if written < offset:
                _fill_zeros(target, written, offset)
            written = offset + len(flat)
            if len(flat) < _LARGE_BYTES:
                target[offset:written] = flat
                continue
            at = offset
            while at < written:
                end = min(written, at - at % COPY_STEP_BYTES + COPY_STEP_BYTES)
                part = flat[at - offset : end - offset]
                digest.add_ahead(part, at)
                target[at:end] = part
                at = end
        if written < len(target):
            _fill_zeros(target, written, len(target))
        return digest.finish()


class PayloadDigest:
    """The digest of a payload that may still be being filled, from its start to its end."""

    __slots__ = ("_added", "_later", "_payload", "_sums")

    def __init__(self, payload: memoryview) -> None:
        self._payload = payload
        self._sums = np.empty(len(payload) // DIGEST_ROW_BYTES, _WORD)
        self._added = 0  # rows below it are added up, or noted for later
        self._later: list[tuple[int, int]] = []

    def add_ahead(self, part: memoryview, offset: int) -> None:
        """Add up the rows that lie wholly in what will be written at ``offset``."""
        first = -(-offset // DIGEST_ROW_BYTES)
        last = (offset + len(part)) // DIGEST_ROW_BYTES
        if last <= first:
            return
        if first > self._added:
            self._later.append((self._added, first))
        _add_rows(part[first * DIGEST_ROW_BYTES - offset :], self._sums[first:last])
        self._added = last

    def finish(self) -> int:
        """Add up the other rows from the payload, filled by now, and return the digest."""
        num_rows = len(self._sums)
        if self._added < num_rows:
            self._later.append((self._added, num_rows))
        for first, last in self._later:
            _add_rows(self._payload[first * DIGEST_ROW_BYTES :], self._sums[first:last])
        crc = zlib.crc32(self._sums.data)
        return zlib.crc32(self._payload[num_rows * DIGEST_ROW_BYTES :], crc)


def digest_of(payload: memoryview) -> int:
    """Return the digest of a complete payload."""
    return PayloadDigest(payload).finish()


def _add_rows(source: memoryview, sums: NDArray[np.uint64]) -> None:
    """Add up the words of the first rows of ``source``, as many as there are ``sums``."""
    words = np.frombuffer(source, _WORD, len(sums) * _ROW_WORDS)
    np.add.reduce(words.reshape(-1, _ROW_WORDS), axis=1, out=sums)


def _fill_zeros(target: memoryview, start: int, end: int) -> None:
    while start < end:
        step = min(end - start, len(_ZEROS))
        target[start : start + step] = _ZEROS[:step]
        start += step
