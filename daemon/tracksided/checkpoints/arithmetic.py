"""Weighted sums of blocks of raw elements, in float64, rounded to nearest even at the end."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

BLOCK_BYTES = 1 << 20  # small enough for the cache, large enough to hide the system call

_MAX_ELEMENTS = BLOCK_BYTES // 2
_HALF_MAGNITUDE = np.uint32(0x7FFF)
_HALF_SIGN = np.uint32(0x8000)
_HALF_INFINITY = np.uint32(0x7C00)
_HALF_SCALE = np.float32(2.0**112)  # float32's exponent bias minus float16's, as a factor


class BlockSum:
    """Buffers of one thread for summing one block after the other. About 14 MiB, reused."""

    def __init__(self) -> None:
        self.block = memoryview(bytearray(BLOCK_BYTES))
        """Raw bytes of the source that is read next."""

        self._sum = np.empty(_MAX_ELEMENTS, np.float64)
        self._scaled = np.empty(_MAX_ELEMENTS, np.float64)
        self._wide = np.empty(_MAX_ELEMENTS, np.uint32)
        self._sign = np.empty(_MAX_ELEMENTS, np.uint32)
        self._finite = np.empty(_MAX_ELEMENTS, np.bool_)
        self._out = bytearray(BLOCK_BYTES)
        self._is_empty = True
        self._saw_half_infinity = False

    def clear(self) -> None:
        """Begin a new sum."""
        self._is_empty = True
        self._saw_half_infinity = False

    def add(self, nbytes: int, element: str, weight: float) -> None:
        """Add the first ``nbytes`` of `block`, times ``weight``.

        Args:
            nbytes: whole elements.
            element: their type, as in `tracksided.checkpoints.dtypes.DType.element`.
            weight: of this source; need not sum to 1.
        """
        values = self._decode(nbytes, element)
        total = self._sum[: values.size]
        with np.errstate(all="ignore"):
            if self._is_empty and weight == 1:
                np.copyto(total, values)  # widens at twice the speed of a product
            elif self._is_empty:
                np.multiply(values, weight, out=total, dtype=np.float64)
            elif weight == 1:
                np.add(total, values, out=total)
            else:
                scaled = self._scaled[: values.size]
                np.multiply(values, weight, out=scaled, dtype=np.float64)
                np.add(total, scaled, out=total)
        self._is_empty = False

    def is_finite(self, nbytes: int, element: str) -> bool:
        """Whether nothing that was added is NaN or infinite, nor the sum."""
        count = _count(nbytes, element)
        finite = np.isfinite(self._sum[:count], out=self._finite[:count])
        return bool(finite.all()) and not self._saw_half_infinity

    def result(self, nbytes: int, element: str, divisor: float) -> memoryview:
        """Divide, round to the element's type, and return the raw bytes until the next call.

        Args:
            nbytes: as in `add`.
            element: as in `add`.
            divisor: the sum of all weights, or 1 where they sum to that.
        """
        count = _count(nbytes, element)
        total = self._sum[:count]
        if divisor != 1:
            np.divide(total, divisor, out=total)
        out = memoryview(self._out)[:nbytes]
        if element == "bfloat16":
            self._round_bfloat16(total, out)
        else:
            target = np.frombuffer(out, dtype=np.dtype(element))
            np.copyto(target, total, casting="same_kind")
        return out

    def _decode(self, nbytes: int, element: str) -> NDArray[Any]:
        raw = self.block[:nbytes]
        if element == "bfloat16":
            halves = np.frombuffer(raw, np.uint16)
            wide = self._wide[: halves.size]
            np.copyto(wide, halves)
            np.left_shift(wide, 16, out=wide)
            return wide.view(np.float32)
        if element == "float16":
            return self._decode_half(np.frombuffer(raw, np.uint16))
        return np.frombuffer(raw, np.dtype(element))

    def _decode_half(self, halves: NDArray[np.uint16]) -> NDArray[np.float32]:
        """Widen exactly, subnormals too: numpy's own cast runs at a third of the speed."""
        wide, sign = self._wide[: halves.size], self._sign[: halves.size]
        np.copyto(sign, halves)
        np.bitwise_and(sign, _HALF_MAGNITUDE, out=wide)
        if halves.size and wide.max() >= _HALF_INFINITY:
            self._saw_half_infinity = True
        np.left_shift(wide, 13, out=wide)
        values = wide.view(np.float32)
        np.multiply(values, _HALF_SCALE, out=values)
        np.bitwise_and(sign, _HALF_SIGN, out=sign)
        np.left_shift(sign, 16, out=sign)
        np.bitwise_or(wide, sign, out=wide)
        return values

    def _round_bfloat16(self, total: NDArray[np.float64], out: memoryview) -> None:
        """Keep the upper half of the float32, to nearest, ties to even; values are finite."""
        wide, odd = self._wide[: total.size], self._sign[: total.size]
        np.copyto(wide.view(np.float32), total, casting="same_kind")
        np.right_shift(wide, 16, out=odd)
        np.bitwise_and(odd, 1, out=odd)
        np.add(odd, 0x7FFF, out=odd)
        np.add(wide, odd, out=wide)
        np.right_shift(wide, 16, out=wide)
        np.copyto(np.frombuffer(out, np.uint16), wide, casting="same_kind")


def _count(nbytes: int, element: str) -> int:
    return nbytes // (2 if element == "bfloat16" else np.dtype(element).itemsize)
