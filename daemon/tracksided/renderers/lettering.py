"""Lines of text as palette indices, drawn by matplotlib's Agg one letter at a time.

Setting a whole title takes Agg some milliseconds, more than the rest of a picture; letters are
drawn once and kept.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.font_manager import FontProperties, findfont, get_font

from tracksided.renderers.palette import WHITE, Indices, ink_indices
from tracksided.samples import FloatArray

DPI = 100
POINTS_PER_INCH = 72
LINE_HEIGHT = 1.3  # of the font size: DejaVu's highest letter to its lowest tail
FONT = "DejaVu Sans"  # comes with matplotlib: the same picture on every machine
MAX_KEPT_LETTERS = 1024
MAX_KEPT_LINES = 1024  # tick labels and titles; some kilobytes each
BASELINE = 0.78  # of the height of a line
SIDE_BEARING_PX = 2  # room for what a letter draws outside its own width


@dataclass(frozen=True, slots=True)
class Style:
    """A size and weight of text."""

    points: float
    is_bold: bool = False

    @property
    def height_px(self) -> int:
        """Height of a line, from the highest letter to the lowest tail."""
        return math.ceil(self.points * DPI / POINTS_PER_INCH * LINE_HEIGHT)


@lru_cache(maxsize=MAX_KEPT_LINES)
def line(text: str, style: Style) -> Indices:
    """Draw one line, black on white.

    Returns:
        [style.height_px, width], not writable. What the font lacks is a question mark.
    """
    letters = [_letter(character, style) for character in text]
    width = math.ceil(sum(letter.advance_px for letter in letters)) + 2 * SIDE_BEARING_PX
    ink = np.zeros((style.height_px, width), dtype=np.float32)
    pen = 0.0
    for letter in letters:
        left = round(pen)
        target = ink[:, left : left + letter.ink.shape[1]]
        np.maximum(target, letter.ink[:, : target.shape[1]], out=target)
        pen += letter.advance_px
    indices = ink_indices(ink)
    indices.flags.writeable = False
    return indices


def width_px(text: str, style: Style) -> int:
    """Return the width of a line."""
    return int(line(text, style).shape[1])


def fit(text: str, style: Style, limit_px: int) -> Indices:
    """Draw one line of ``text``, shortened as by `shorten`."""
    return line(shorten(text, style, limit_px), style)


def shorten(text: str, style: Style, limit_px: int) -> str:
    """Leave the middle of ``text`` out where a line of it is wider than ``limit_px``."""
    shown, kept = text, len(text)
    while (width := width_px(shown, style)) > limit_px and kept > 1:
        kept = min(kept - 1, kept * limit_px // width)
        head = (kept + 1) // 2
        shown = f"{text[:head]}...{text[len(text) - (kept - head) :]}"
    return shown


def drawable(text: str) -> str:
    """Return a text with question marks for what the font lacks."""
    return "".join(c if c.isprintable() and ord(c) in _known_characters() else "?" for c in text)


def paste(canvas: Indices, drawn: Indices, *, top: int, left: int) -> None:
    """Put text on a canvas; what lies outside is cut, and white does not cover.

    Args:
        canvas: [height, width], indices in the palette.
        drawn: [height, width], as `line` makes it.
        top: row of the canvas where it begins; may be negative.
        left: column of the canvas where it begins; may be negative.
    """
    row, column = max(-top, 0), max(-left, 0)
    target = canvas[top + row : top + drawn.shape[0], left + column : left + drawn.shape[1]]
    source = drawn[row : row + target.shape[0], column : column + target.shape[1]]
    np.copyto(target, source, where=source != WHITE)


@dataclass(frozen=True, slots=True)
class _Letter:
    ink: FloatArray
    """[height_px, width], 0 to 1; its own origin lies `SIDE_BEARING_PX` from the left."""

    advance_px: float


@lru_cache(maxsize=MAX_KEPT_LETTERS)
def _letter(character: str, style: Style) -> _Letter:
    character = drawable(character)
    font = FontProperties(
        family=FONT, size=style.points, weight="bold" if style.is_bold else "normal"
    )
    agg = RendererAgg(  # type: ignore[no-untyped-call] # matplotlib's canvas has no types
        3 * style.height_px, style.height_px, DPI
    )
    advance, _, _ = agg.get_text_width_height_descent(  # type: ignore[no-untyped-call] # matplotlib's canvas has no types
        character, font, ismath=False
    )
    baseline = round(style.height_px * BASELINE)
    agg.draw_text(  # type: ignore[no-untyped-call] # matplotlib's canvas has no types
        agg.new_gc(), SIDE_BEARING_PX, baseline, character, font, 0
    )
    pixels = np.asarray(agg.buffer_rgba())  # type: ignore[no-untyped-call] # matplotlib's canvas has no types
    width = math.ceil(advance) + 2 * SIDE_BEARING_PX
    ink = pixels[:, :width, 3].astype(np.float32) / np.float32(255)
    return _Letter(ink, float(advance))


@lru_cache(maxsize=1)
def _known_characters() -> frozenset[int]:
    return frozenset(get_font(findfont(FONT)).get_charmap())
