"""Weighted sums of blocks of raw elements, in float64, rounded once to nearest even at the end."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

BLOCK_BYTES = 1 << 20  # small enough for the cache, large enough to hide the system call

_SMALLER = 2.0**-20  # a million of the largest numbers fit; a power of two changes no digit
_MAX_ELEMENTS = BLOCK_BYTES // 2
_HALF_MAGNITUDE = np.uint32(0x7FFF)
_BFLOAT16_MAGNITUDE = np.uint16(0x7FFF)
_HALF_SIGN = np.uint32(0x8000)
_HALF_INFINITY = np.uint32(0x7C00)
_ROUNDED_AT_ONCE = 1 << 17  # elements: their buffers stay in the cache from one pass to the next
_BFLOAT16_DROPPED = np.uint64((1 << 45) - 1)  # bits of a float64 that a bfloat16 lacks
_BFLOAT16_TIE = np.uint64(1 << 44)  # half of its last bit
# That, less half of the last bit of the float32 on the way: see `BlockSum._round_bfloat16`.
_BFLOAT16_HALF_UP = np.uint64((1 << 44) - (1 << 28))
_BFLOAT16_NORMAL = np.uint16(0x0080)  # the smallest normal number, 2**-126
_BFLOAT16_SUBNORMAL_SCALE = 2.0**133  # subnormal ones are multiples of its inverse
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
                halves = np.frombuffer(out, np.uint16)
                for start in range(0, count, _ROUNDED_AT_ONCE):
                    part = slice(start, start + _ROUNDED_AT_ONCE)
                    self._round_bfloat16(total[part], halves[part])
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

    def _round_bfloat16(self, total: NDArray[np.float64], halves: NDArray[np.uint16]) -> None:
        """Round to nearest, ties to even, as if there were no float32 between; values are finite.

        With b the bits of a float64, the upper half of the float32 nearest to b + 2**44 - 2**28
        is floor((b + 2**44) / 2**45): b rounded to nearest, but ties upwards. (Where the way to
        float32 is a tie itself, it ends at an even number, and only such a one has a lower half
        of zero.) Ties are then made even. All that needs a normal number.
        """
        count = total.size
        bits, work = total.view(np.uint64), self._scaled[:count].view(np.uint64)
        wide, mask = self._wide[:count], self._sign.view(np.uint16)[:count]
        np.add(bits, _BFLOAT16_HALF_UP, out=work)
        np.copyto(wide.view(np.float32), work.view(np.float64), casting="same_kind")
        np.right_shift(wide, 16, out=wide)
        np.copyto(halves, wide, casting="same_kind")
        np.bitwise_and(bits, _BFLOAT16_DROPPED, out=work)
        ties = np.equal(work, _BFLOAT16_TIE, out=self._finite[:count])
        np.copyto(mask, ties)
        np.invert(mask, out=mask)
        np.bitwise_and(halves, mask, out=halves)  # clears the last bit of ties
        np.bitwise_and(halves, _BFLOAT16_MAGNITUDE, out=mask)
        tiny = np.less_equal(mask, _BFLOAT16_NORMAL, out=self._finite[:count])
        if tiny.any() and total[tiny].any():  # more than zeros
            self._round_subnormal(total, halves, tiny)

    def _round_subnormal(
        self, total: NDArray[np.float64], halves: NDArray[np.uint16], tiny: NDArray[np.bool_]
    ) -> None:
        """Round those below the normal numbers of bfloat16 to their common spacing."""
        count = total.size
        work, wide, sign = self._scaled[:count], self._wide[:count], self._sign[:count]
        np.multiply(total, _BFLOAT16_SUBNORMAL_SCALE, out=work)
        np.rint(work, out=work)
        np.absolute(work, out=work)
        np.copyto(wide, work, casting="unsafe", where=tiny)
        np.copyto(sign, halves)
        np.bitwise_and(sign, _HALF_SIGN, out=sign)
        np.bitwise_or(wide, sign, out=wide)
        np.copyto(halves, wide, casting="same_kind", where=tiny)


def _count(nbytes: int, element: str) -> int:
    return nbytes // (2 if element == "bfloat16" else np.dtype(element).itemsize)
