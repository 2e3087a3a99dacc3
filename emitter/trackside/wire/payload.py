"""The payload of a record: arrays copied into the ring, and a digest at the speed of memory.

The digest: the payload is cut into rows of `DIGEST_ROW_BYTES`. The little-endian u64 words of each
whole row are added modulo 2^64; a CRC-32 runs over these sums, then over the bytes behind the last
whole row. One damaged word always changes it. Why not a plain CRC:
``docs/adr/0001-payload-checksum.md``.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

DIGEST_ROW_BYTES = 4096
# Copied before it is added up. Larger copies go past the caches (measured: from 1 MiB on) and are
# the faster for it, also with the second look at what was written.
DIGEST_STEP_BYTES = 1 << 20

_ZEROS = bytes(4096)  # longer gaps are filled piece by piece


@dataclass(frozen=True, slots=True)
class Payload:
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
            _fill_zeros(target, written, offset)
            done = 0
            while done < len(flat):
                at = offset + done
                step = min(len(flat) - done, DIGEST_STEP_BYTES - at % DIGEST_STEP_BYTES)
                target[at : at + step] = flat[done : done + step]
                done += step
                digest.advance(at + step)
            written = offset + len(flat)
        _fill_zeros(target, written, len(target))
        return digest.finish()


class PayloadDigest:
    """The digest of a payload that is still being filled, from its start to its end."""

    __slots__ = ("_crc", "_done", "_payload", "_rows")

    def __init__(self, payload: memoryview) -> None:
        self._payload = payload
        self._crc = 0
        self._done = 0
        whole = len(payload) // DIGEST_ROW_BYTES * DIGEST_ROW_BYTES
        words = np.frombuffer(payload[:whole], dtype="<u8")
        self._rows = words.reshape(-1, DIGEST_ROW_BYTES // words.itemsize)

    def advance(self, written: int) -> None:
        """Take in what lies below ``written``, if that is enough to be worth while."""
        if written - self._done >= DIGEST_STEP_BYTES:
            self._add_rows(written // DIGEST_ROW_BYTES)

    def finish(self) -> int:
        """Take in what is left and return the digest."""
        self._add_rows(len(self._rows))
        return zlib.crc32(self._payload[self._done :], self._crc)

    def _add_rows(self, last: int) -> None:
        first = self._done // DIGEST_ROW_BYTES
        if last > first:
            sums = np.add.reduce(self._rows[first:last], axis=1)  # [rows]
            self._crc = zlib.crc32(sums, self._crc)
            self._done = last * DIGEST_ROW_BYTES


def digest_of(payload: memoryview) -> int:
    """Return the digest of a complete payload."""
    return PayloadDigest(payload).finish()


def _fill_zeros(target: memoryview, start: int, end: int) -> None:
    while start < end:
        step = min(end - start, len(_ZEROS))
        target[start : start + step] = _ZEROS[:step]
        start += step
