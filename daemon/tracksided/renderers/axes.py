"""The axes of a map: how many cells, how large, and which positions are written beside them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tracksided.renderers.lettering import Style, width_px
from tracksided.renderers.pooling import block_size

TICK_STYLE = Style(11)
TICK_SPACE_PX = 16  # between two labels
MAX_TICKS = 8
NICE_STEPS = (1, 2, 5)  # times powers of ten


@dataclass(frozen=True, slots=True)
class Axis:
    """One direction of a map on the canvas."""

    block: int
    """Positions per cell."""

    num_cells: int
    cell_px: int
    ticks: tuple[tuple[int, str], ...]
    """Pixels from the start of the axis, and label."""

    @property
    def length_px(self) -> int:
        """Size on the canvas."""
        return self.num_cells * self.cell_px


def make_axis(
    positions: NDArray[np.int64], *, max_cells: int, max_px: int, is_upright: bool
) -> Axis:
    """Lay out an axis over positions in the sequence.

    Args:
        positions: [n], n >= 1, ascending, not always without gaps: the kept query rows.
        max_cells: beyond it several positions share a cell.
        max_px: the axis is enlarged by a whole factor up to this, but at least one pixel a cell.
        is_upright: labels stand above each other, not side by side.
    """
    block = block_size(len(positions), max_cells)
    num_cells = block_size(len(positions), block)
    cell_px = max(1, max_px // num_cells)
    length_px = num_cells * cell_px
    label_px = TICK_STYLE.height_px if is_upright else width_px(str(positions[-1]), TICK_STYLE)
    max_ticks = min(MAX_TICKS, max(1, length_px // (label_px + TICK_SPACE_PX)))
    px_per_position = cell_px / block
    labelled = _labelled_positions(positions, max_ticks)
    indices = np.interp(labelled, positions, np.arange(len(positions)))
    # The middle of a position, also where its cell shows several.
    places = np.floor((indices + 0.5) * px_per_position).astype(int)
    places = np.minimum(places, length_px - 1)
    ticks = tuple((int(px), str(p)) for px, p in zip(places, labelled, strict=True))
    return Axis(block, num_cells, cell_px, ticks)


def _labelled_positions(positions: NDArray[np.int64], max_ticks: int) -> Sequence[int]:
    """Choose round positions, or all of them where they are few."""
    if len(positions) <= max_ticks:
        return [int(position) for position in positions]
    gaps = np.diff(positions)
    # Evenly spaced up to rounding: the numbers between can be read off. Else real rows are named.
    if gaps.max() - gaps.min() > 1:
        stride = -(-len(positions) // max_ticks)
        return [int(position) for position in positions[::stride]]
    first, last = int(positions[0]), int(positions[-1])
    power = 10 ** max(0, math.floor(math.log10((last - first) / max_ticks)))
    steps = (factor * scale for scale in (power, power * 10) for factor in NICE_STEPS)
    for step in steps:
        round_positions = range(-(-first // step) * step, last + 1, step)
        if len(round_positions) <= max_ticks:
            return round_positions or [first]
    return [first]
