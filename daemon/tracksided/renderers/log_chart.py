"""A chart with a column per parameter and a logarithmic scale, as palette indices."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tracksided.renderers.lettering import Style, line, paste
from tracksided.renderers.palette import BLACK, NUM_GREYS, WHITE, Indices

TICK_STYLE = Style(13)
TICK_PX = 4
GAP_PX = 6
GRID = WHITE - NUM_GREYS // 6  # a light grey
MIN_GAPPED_PX = 4  # columns that have room for a gap between them
NOWHERE = 1 << 20  # a row that no chart has
HALF_DASH_PX = 2  # of a mark, above and below its value
MAX_DECADES = 16  # what lies below is drawn at the bottom

DoubleArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class LogScale:
    """Whole decades, 10**low to 10**high, over some pixels."""

    low: int
    high: int
    height_px: int

    @classmethod
    def around(cls, usual: tuple[int, int], values: DoubleArray, height_px: int) -> "LogScale":
        """Take the usual decades, more where a value lies beyond: pictures of steps compare.

        Args:
            usual: exponents of ten.
            values: NaN and what is not positive is passed over.
            height_px: of the chart.
        """
        low, high = usual
        positive = values[np.isfinite(values) & (values > 0)]
        if positive.size:
            low = min(low, math.floor(math.log10(positive.min())))
            high = max(high, math.ceil(math.log10(positive.max())))
        return cls(max(low, high - MAX_DECADES), high, height_px)

    def rows(self, values: DoubleArray) -> NDArray[np.int64]:
        """Return the row of each value from the top, far below where it is not positive."""
        is_positive = np.isfinite(values) & (values > 0)
        exponents = np.log10(np.where(is_positive, values, 1.0))
        shares = (self.high - exponents) / (self.high - self.low)
        rows = np.rint(shares * (self.height_px - 1)).astype(np.int64)
        return np.where(is_positive, np.clip(rows, 0, self.height_px - 1), NOWHERE)

    def row(self, value: float) -> int:
        """Return the row of one value."""
        return int(self.rows(np.array([value]))[0])

    @property
    def decades(self) -> Sequence[int]:
        """Exponents that are named, so that labels do not touch."""
        room = max(1, self.height_px // TICK_STYLE.height_px)
        return range(self.low, self.high + 1, -(-(self.high - self.low + 1) // room))


class LogChart:
    """Columns of equal width over a scale; drawn one pixel wide, widened at the end."""

    def __init__(self, scale: LogScale, num_columns: int, column_px: int) -> None:
        """Draw lines at the decades, and nothing else yet."""
        self.scale = scale
        self._column_px = column_px
        self._rows = np.arange(scale.height_px)[:, None]  # [height, 1]
        self._background = np.full((self.scale.height_px, 1), WHITE, dtype=np.uint8)
        for exponent in self.scale.decades:
            self._background[self.scale.row(10.0**exponent)] = GRID
        self._cells = np.repeat(self._background, num_columns, axis=1)

    def fill(self, values: DoubleArray, colour: int) -> None:
        """Fill each column from its value down to the bottom; NaN and 0 fill nothing."""
        self._cells[self._rows >= self.scale.rows(values)] = colour

    def band(self, low: DoubleArray, high: DoubleArray, colour: int) -> None:
        """Fill each column between two values.

        Args:
            low: [columns], not positive or NaN where nothing is filled.
            high: [columns].
            colour: index in the palette.
        """
        inside = (self._rows >= self.scale.rows(high)) & (self._rows <= self.scale.rows(low))
        self._cells[inside] = colour

    def mark(self, values: DoubleArray, colour: int) -> None:
        """Put a dash at the value of each column.

        Args:
            values: [columns], not positive or NaN where there is none.
            colour: index in the palette.
        """
        self._cells[np.abs(self._rows - self.scale.rows(values)) <= HALF_DASH_PX] = colour

    def foot(self, is_marked: NDArray[np.bool_], colour: int, *, height_px: int) -> None:
        """Fill the lowest pixels of columns.

        Args:
            is_marked: [columns].
            colour: index in the palette.
            height_px: how many.
        """
        self._cells[(self._rows >= self.scale.height_px - height_px) & is_marked] = colour

    def stripe(self, is_marked: NDArray[np.bool_], colour: int) -> None:
        """Fill whole columns with stripes: not by its colour alone are they told apart."""
        self._cells[(self._rows // 4 % 2 == 0) & is_marked] = colour

    def draw(self, image: Indices, top: int, left: int) -> None:
        """Put the chart, its frame and its scale on an image; numbers stand left of it.

        Args:
            image: [height, width], indices in the palette.
            top: first row of the chart, below its frame.
            left: first column of the chart, right of its frame.
        """
        wide = np.repeat(self._cells, self._column_px, axis=1)
        if self._column_px >= MIN_GAPPED_PX:
            wide[:, :: self._column_px] = self._background
        height, width = wide.shape
        image[top : top + height, left : left + width] = wide
        image[[top - 1, top + height], left - 1 : left + width + 1] = BLACK
        image[top - 1 : top + height + 1, [left - 1, left + width]] = BLACK
        for exponent in self.scale.decades:
            row = top + self.scale.row(10.0**exponent)
            image[row, left - 1 - TICK_PX : left] = BLACK
            drawn = line(f"1e{exponent}", TICK_STYLE)
            at = left - 1 - TICK_PX - GAP_PX - drawn.shape[1]
            paste(image, drawn, top=row - drawn.shape[0] // 2, left=at)
