"""The axes of a map: how many cells, how large, and what is written beside them."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tracksided.renderers.lettering import Style, shorten, width_px
from tracksided.renderers.pooling import block_size

TICK_STYLE = Style(13)
# Of tokens: the first that fits; the last lets a sentence of 30 have them all.
TOKEN_STYLES = (TICK_STYLE, Style(11), Style(9))
MAX_TOKEN_PX = 104
# Between two labels: side by side, and above each other.
SPACE_ACROSS_PX = 16
SPACE_UPRIGHT_PX = 2
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

    style: Style = TICK_STYLE
    """Of the labels."""

    is_turned: bool = False
    """Whether labels below the axis read from bottom to top."""

    @property
    def length_px(self) -> int:
        """Size on the canvas."""
        return self.num_cells * self.cell_px


def make_axis(
    positions: NDArray[np.int64],
    *,
    max_cells: int,
    max_px: int,
    is_upright: bool,
    tokens: Sequence[str] = (),
) -> Axis:
    """Lay out an axis over positions in the sequence.

    Args:
        positions: [n], n >= 1, ascending, not always without gaps: the kept query rows.
        max_cells: beyond it several positions share a cell.
        max_px: the axis is enlarged by a whole factor up to this, but at least one pixel a cell.
        is_upright: labels stand above each other, not side by side.
        tokens: what stands at each position of the sequence; empty where that is not known.
    """
    block = block_size(len(positions), max_cells)
    num_cells = block_size(len(positions), block)
    cell_px = max(1, max_px // num_cells)
    length_px = num_cells * cell_px
    style = TICK_STYLE
    if tokens:
        fitting = (style for style in TOKEN_STYLES if style.height_px * block <= cell_px)
        style = next(fitting, TOKEN_STYLES[-1])
        max_ticks = max(1, length_px // style.height_px)
        labelled: Sequence[int] = positions[:: block_size(len(positions), max_ticks)].tolist()
        is_thinned = len(labelled) < len(positions)
        labels = [_token_label(tokens, p, style, is_thinned=is_thinned) for p in labelled]
    else:
        text_px = style.height_px if is_upright else width_px(str(positions[-1]), style)
        space_px = SPACE_UPRIGHT_PX if is_upright else SPACE_ACROSS_PX
        max_ticks = min(MAX_TICKS, max(1, length_px // (text_px + space_px)))
        labelled = next(
            choice
            for choice in _choices(positions, max_ticks)
            if (np.diff(_places(choice, positions, cell_px / block)) > text_px).all()
        )
        labels = [str(position) for position in labelled]
    places = np.minimum(_places(labelled, positions, cell_px / block), length_px - 1)
    ticks = tuple((int(px), label) for px, label in zip(places, labels, strict=True))
    return Axis(block, num_cells, cell_px, ticks, style, is_turned=bool(tokens) and not is_upright)


def _token_label(tokens: Sequence[str], position: int, style: Style, *, is_thinned: bool) -> str:
    """Name a token; where others are left out, also say which it is."""
    # Line feeds and the like are shown as Python writes them.
    token = "".join(
        letter if letter.isprintable() else repr(letter)[1:-1] for letter in tokens[position]
    )
    return shorten(f"{position} {token}" if is_thinned else token, style, MAX_TOKEN_PX)


def _places(
    labelled: Sequence[int], positions: NDArray[np.int64], position_px: float
) -> NDArray[np.int64]:
    """Return pixels from the start: the middle of a position, also where its cell shows several."""
    indices = np.interp(labelled, positions, np.arange(len(positions)))
    return np.floor((indices + 0.5) * position_px).astype(np.int64)


def _choices(positions: NDArray[np.int64], max_ticks: int) -> Iterator[Sequence[int]]:
    """Yield what may be labelled, the best first: all where they are few, or round positions."""
    first, last = int(positions[0]), int(positions[-1])
    if len(positions) <= max_ticks:
        yield [int(position) for position in positions]
    elif (gaps := np.diff(positions)).max() > 2 * gaps.min():
        # Not evenly spaced up to rounding, so that nothing between could be read off: real rows.
        stride = -(-len(positions) // max_ticks)
        yield [int(position) for position in positions[::stride]]
    else:
        power = 10 ** max(0, math.floor(math.log10((last - first) / max_ticks)))
        for step in (factor * scale for scale in (power, power * 10) for factor in NICE_STEPS):
            round_positions = range(-(-first // step) * step, last + 1, step)
            if 0 < len(round_positions) <= max_ticks:
                yield round_positions
    yield [first]
