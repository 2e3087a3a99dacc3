"""Weighted sums of blocks of raw elements, in float64, rounded once to nearest even at the end."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

BLOCK_BYTES = 1 << 20  # small enough for the cache, large enough to hide the system call

_SMALLER = 2.0**-20  # a million of the largest numbers fit; a power of two changes no digit
_MAX_ELEMENTS = BLOCK_BYTES // 2
_HALF_MAGNITUDE = np.uint32(0x7FFF)
_HALF_SIGN = np.uint32(0x8000)
_HALF_INFINITY = np.uint32(0x7C00)
_HALF_SCALE = np.float32(2.0**112)  # float32's exponent bias minus float16's, as a factor
_UPPER_HALF = np.uint32(0xFFFF_0000)
_ROUNDED_AT_ONCE = 1 << 17  # elements: their buffers stay in the cache from one pass to the next
_DOUBLE_EXPONENT = np.uint64(0x7FF << 52)
_BFLOAT16_ANCHOR = np.uint64((45 << 52) | (1 << 51))  # times 1.5 * 2**45: float64 has 45 bits more
_BFLOAT16_MAGNITUDE = np.uint16(0x7FFF)
_BFLOAT16_NORMAL = (2.0**-126, 2.0**128)  # the smallest normal number, and the first beyond all
# Bits of what is surely rounded from a normal number, as the first such and a distance from it.
_BFLOAT16_FIRST, _BFLOAT16_SPAN = np.uint16(0x0081), np.uint16(0x7F7F - 0x0081)


class BlockSum:
    """Buffers of one thread for summing one block after the other. About 16 MiB, reused."""

    def __init__(self) -> None:
        self.block = memoryview(bytearray(BLOCK_BYTES))
        """Raw bytes of the source that is read next."""

        self._sum = np.empty(_MAX_ELEMENTS, np.float64)
        self._scaled = np.empty(_MAX_ELEMENTS, np.float64)
        self._wide = np.empty(_MAX_ELEMENTS, np.uint32)
        self._sign = np.empty(_MAX_ELEMENTS, np.uint32)
        self._anchor = np.empty(_ROUNDED_AT_ONCE, np.float64)
        self._rounded = np.empty(_ROUNDED_AT_ONCE, np.float64)
        self._finite = np.empty(_MAX_ELEMENTS, np.bool_)
        self._out = bytearray(BLOCK_BYTES)
        self._kept: NDArray[np.float64] | None = None
        self._scale = 1.0
        self._is_empty = True
        self._saw_half_infinity = False

    def clear(self) -> None:
        """Begin a new sum."""
        self._kept, self._scale = None, 1.0
        self._is_empty = True
        self._saw_half_infinity = False

    def begin_smaller(self) -> None:
        """Begin the same sum again, on a scale on which finite numbers cannot exceed float64.

        `result` takes from it only what exceeded float64 before: the rest would lose precision.
        """
        kept = self._sum.copy()
        self.clear()
        self._kept, self._scale = kept, _SMALLER

    def add(self, nbytes: int, element: str, weight: float) -> None:
        """Add the first ``nbytes`` of `block`, times ``weight``.

        Args:
            nbytes: whole elements.
            element: their type, as in `tracksided.checkpoints.dtypes.Dtype.element`.
            weight: of this source; need not sum to 1.
        """
        values = self._decode(nbytes, element)
        total = self._sum[: values.size]
        weight *= self._scale
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
        """Whether neither what was added, nor the sum, nor what came of it is NaN or infinite."""
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
        out = memoryview(self._out)[:nbytes]
        with np.errstate(over="ignore"):  # what exceeds the type becomes infinite, as in IEEE 754
            self._divide(total, divisor)
            if element == "bfloat16":
                self._round_bfloat16(total)
            else:
                target = np.frombuffer(out, dtype=np.dtype(element))
                np.copyto(target, total, casting="same_kind")
        return out

    def _divide(self, total: NDArray[np.float64], divisor: float) -> None:
        if self._kept is not None:
            kept = self._kept[: total.size]
            np.divide(total, divisor * self._scale, out=total)
            np.divide(kept, divisor, out=total, where=np.isfinite(kept))
        elif divisor != 1 and math.frexp(divisor)[0] == 0.5:  # noqa: PLR2004 - a power of two
            np.multiply(total, 1 / divisor, out=total)  # exact, at three times the speed
        elif divisor != 1:
            np.divide(total, divisor, out=total)

    def _decode(self, nbytes: int, element: str) -> NDArray[Any]:
        raw = self.block[:nbytes]
        if element == "bfloat16":
            return self._decode_bfloat16(nbytes)
        if element == "float16":
            return self._decode_half(np.frombuffer(raw, np.uint16))
        return np.frombuffer(raw, np.dtype(element))

    def _decode_bfloat16(self, nbytes: int) -> NDArray[np.float32]:
        """Widen pairs: all of even index first, then all of odd index, if need be a zero more."""
        count = _count(nbytes, "bfloat16")
        self.block[nbytes : count * 2] = bytes(count * 2 - nbytes)
        pairs = np.frombuffer(self.block[: count * 2], np.uint32)
        wide = self._wide[:count]
        np.left_shift(pairs, 16, out=wide[: count // 2])
        np.bitwise_and(pairs, _UPPER_HALF, out=wide[count // 2 :])
        return wide.view(np.float32)

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

    def _round_bfloat16(self, total: NDArray[np.float64]) -> None:
        """Round to nearest, ties to even, into the bytes of the result."""
        pairs = np.frombuffer(self._out, np.uint32)[: total.size // 2]
        halves = pairs.view(np.uint16)
        distance = self._sign.view(np.uint16)[: total.size]
        self._round_pairs(total, pairs)
        np.bitwise_and(halves, _BFLOAT16_MAGNITUDE, out=distance)
        np.subtract(distance, _BFLOAT16_FIRST, out=distance)  # what lies before wraps around
        is_rare = np.greater(distance, _BFLOAT16_SPAN, out=self._finite[: total.size])
        num_rare = np.count_nonzero(is_rare)
        # Zeros are rare, and rounded already, but for negative ones.
        if num_rare and num_rare > total.size - np.count_nonzero(total.view(np.uint64)):
            self._round_pairs(total, pairs, has_rare=True)

    def _round_pairs(
        self, total: NDArray[np.float64], pairs: NDArray[np.uint32], *, has_rare: bool = False
    ) -> None:
        """Round what becomes normal numbers or zero, and with ``has_rare`` everything.

        Adding 1.5 * 2**45 times the power of two of a float64 leaves just the 8 digits of a
        bfloat16, so that the addition itself rounds; taking it away again is exact. Numbers below
        the normal ones are spaced like the smallest of those, and a zero needs its sign back.
        """
        wide = self._wide[: total.size]
        for start in range(0, total.size, _ROUNDED_AT_ONCE):
            part = total[start : start + _ROUNDED_AT_ONCE]
            nearest = wide[start : start + part.size].view(np.float32)
            anchor, rounded = self._anchor[: part.size], self._rounded[: part.size]
            bits = anchor.view(np.uint64)
            np.bitwise_and(part.view(np.uint64), _DOUBLE_EXPONENT, out=bits)
            if has_rare:
                np.clip(anchor, *_BFLOAT16_NORMAL, out=anchor)
            np.add(bits, _BFLOAT16_ANCHOR, out=bits)
            np.add(part, anchor, out=rounded)
            np.subtract(rounded, anchor, out=rounded)
            if has_rare:
                np.copysign(rounded, part, out=rounded)
            np.copyto(nearest, rounded, casting="same_kind")
        even, odd = wide[: pairs.size], wide[pairs.size :]
        np.right_shift(even, 16, out=even)
        np.bitwise_and(odd, _UPPER_HALF, out=odd)
        np.bitwise_or(even, odd, out=pairs)


def _count(nbytes: int, element: str) -> int:
    """Return how many elements are summed."""
    if element == "bfloat16":
        return (nbytes + 3) // 4 * 2
    return nbytes // np.dtype(element).itemsize
