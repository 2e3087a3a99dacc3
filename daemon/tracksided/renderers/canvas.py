"""The canvas of a heat map: all that stays the same from step to step, drawn once and kept.

A picture is the canvas of its layout plus what changes: titles, captions and the cells of its
panels, pasted into a copy. Everything is palette indices from start to end.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from tracksided.renderers.axes import Axis
from tracksided.renderers.lettering import Style, fit, line, paste, width_px
from tracksided.renderers.palette import BLACK, NUM_COLOURS, WEIGHT, WHITE, Indices, Scale

MAX_KEPT_CANVASES = 16  # half a megabyte each, grids of many heads up to eight
# TensorBoard's cards show a picture 340 pixels wide: half the size of a single map, where this
# text can still be read. Wider pictures have larger text.
TITLE_POINTS = 16
TEXT_POINTS = 14
CAPTION_STYLE = Style(13)
USUAL_WIDTH_PX = 640  # of the panels together, up to which text has these sizes

MARGIN_PX = 12
GAP_PX = 6  # between things that belong together
PANEL_GAP_PX = 22  # between panels
OVERHANG_PX = PANEL_GAP_PX // 2 - 2  # of tick labels beyond their panel
TICK_PX = 4
BAR_PX = 18
MIN_BAR_PX = 240  # room for its label, also beside flat panels


@dataclass(frozen=True, slots=True)
class Labels:
    """What a canvas says beside its axes and its colour bar."""

    across: str = "key position"
    upright: str = "query position"
    bar: str = "attention weight"
    scale: Scale = WEIGHT


@dataclass(frozen=True, slots=True)
class Panel:
    """One map on the canvas."""

    queries: Axis
    keys: Axis


@dataclass(frozen=True, slots=True)
class Layout:
    """What a canvas depends on."""

    panels: tuple[Panel, ...]
    """Row by row, at least one."""

    num_columns: int
    num_titles: int
    has_captions: bool
    labels: Labels = Labels()

    @property
    def is_shared(self) -> bool:
        """Whether panels, being equal, share the numbers at the outer edges."""
        return all(panel == self.panels[0] for panel in self.panels)


@dataclass(frozen=True, slots=True)
class Canvas:
    """Axes, ticks, labels and colour bar of a layout."""

    layout: Layout
    background: Indices
    """[height, width], not writable."""

    corners: tuple[tuple[int, int], ...]
    """Row and column of the upper left pixel of each panel's cells."""

    title_style: Style
    text_style: Style

    def draw(
        self, titles: Sequence[str], captions: Sequence[str], maps: Sequence[Indices]
    ) -> Indices:
        """Paste what changes into a copy of the background.

        Args:
            titles: lines above all; the first is bold. Cut in the middle where too long.
            captions: one per panel where the layout has captions, else none.
            maps: [query cells, key cells] of each panel.
        """
        image = self.background.copy()
        limit_px = image.shape[1] - 2 * MARGIN_PX
        top = MARGIN_PX
        for index, title in enumerate(titles):
            style = self.text_style if index else self.title_style
            paste(image, fit(title, style, limit_px), top=top, left=MARGIN_PX)
            top += style.height_px
        for panel, (row, column), cells in zip(self.layout.panels, self.corners, maps, strict=True):
            wide = np.repeat(cells, panel.keys.cell_px, axis=1)
            height, width = panel.queries.length_px, panel.keys.length_px
            image[row : row + height, column : column + width] = np.repeat(
                wide, panel.queries.cell_px, axis=0
            )
        if self.layout.has_captions:
            for panel, (row, column), caption in zip(
                self.layout.panels, self.corners, captions, strict=True
            ):
                drawn = fit(caption, CAPTION_STYLE, panel.keys.length_px + PANEL_GAP_PX)
                left = column + (panel.keys.length_px - drawn.shape[1]) // 2
                paste(image, drawn, top=row - 1 - drawn.shape[0], left=left)
        return image


@lru_cache(maxsize=MAX_KEPT_CANVASES)
def build_canvas(layout: Layout) -> Canvas:
    """Draw the canvas of a layout."""
    panels, columns, labels = layout.panels, layout.num_columns, layout.labels
    places, is_shared = _place(layout), layout.is_shared
    left, right, top, bottom = places.left, places.right, places.top, places.bottom
    style, width = places.text_style, places.width
    image = np.full((places.height, width), WHITE, dtype=np.uint8)
    for index, (panel, corner) in enumerate(zip(panels, places.corners, strict=True)):
        is_leftmost = index % columns == 0
        is_lowest = index + columns >= len(panels)
        _draw_frame(image, corner, panel.queries.length_px, panel.keys.length_px)
        _draw_ticks(
            image,
            corner,
            panel,
            with_queries=is_leftmost or not is_shared,
            with_keys=is_lowest or not is_shared,
        )
    _center(image, line(labels.across, style), bottom + places.numbers_below, (left, right))
    _center_upright(image, line(labels.upright, style), MARGIN_PX, (top, bottom))
    bar_rows = (top, places.bar_bottom)
    _draw_bar(image, right + PANEL_GAP_PX, bar_rows, labels.scale, style)
    bar_label_left = width - MARGIN_PX - style.height_px
    _center_upright(image, line(labels.bar, style), bar_label_left, bar_rows)
    image.flags.writeable = False
    return Canvas(layout, image, places.corners, places.title_style, style)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Places:
    """Where everything of a canvas goes, in pixels from its upper left corner."""

    width: int
    height: int
    left: int
    """Of all panels together, as the next three."""

    right: int
    top: int
    bottom: int
    bar_bottom: int
    numbers_below: int
    """Height of the numbers below a panel."""

    corners: tuple[tuple[int, int], ...]
    """As in `Canvas`."""

    title_style: Style
    text_style: Style


def _place(layout: Layout) -> _Places:
    panels, columns, is_shared = layout.panels, layout.num_columns, layout.is_shared
    panel_width = max(panel.keys.length_px for panel in panels)
    numbers_left = TICK_PX + GAP_PX + max(_widest(panel.queries) for panel in panels)
    numbers_below = TICK_PX + max(_depth(panel.keys) for panel in panels)
    pitch_x = panel_width + PANEL_GAP_PX + (0 if is_shared else numbers_left)
    growth = max(1.0, columns * pitch_x / USUAL_WIDTH_PX)
    title_style = Style(round(TITLE_POINTS * growth), is_bold=True)
    text_style = Style(round(TEXT_POINTS * growth))
    caption_px = CAPTION_STYLE.height_px if layout.has_captions else 0
    titles_px = title_style.height_px + (layout.num_titles - 1) * text_style.height_px
    between_rows = GAP_PX + caption_px + (GAP_PX if is_shared else numbers_below)

    left = MARGIN_PX + text_style.height_px + numbers_left
    top = MARGIN_PX + titles_px + 2 * GAP_PX + caption_px
    right = left + (columns - 1) * pitch_x + panel_width
    corners: list[tuple[int, int]] = []
    bottom = top - between_rows
    for start in range(0, len(panels), columns):
        row, row_top = panels[start : start + columns], bottom + between_rows
        corners += [(row_top, left + index * pitch_x) for index in range(len(row))]
        bottom = row_top + max(panel.queries.length_px for panel in row)
    bar_bottom = max(bottom, top + MIN_BAR_PX)
    numbers_right = max(width_px(f"{tick:g}", text_style) for tick in layout.labels.scale.ticks)
    bar_width = PANEL_GAP_PX + BAR_PX + TICK_PX + GAP_PX + numbers_right + text_style.height_px
    return _Places(
        width=right + bar_width + MARGIN_PX,
        height=max(bottom + numbers_below, bar_bottom) + text_style.height_px + MARGIN_PX,
        left=left,
        right=right,
        top=top,
        bottom=bottom,
        bar_bottom=bar_bottom,
        numbers_below=numbers_below,
        corners=tuple(corners),
        title_style=title_style,
        text_style=text_style,
    )


def _widest(axis: Axis) -> int:
    return max(width_px(label, axis.style) for _, label in axis.ticks)


def _depth(axis: Axis) -> int:
    """Return how far the labels of an axis reach down below it."""
    return GAP_PX + _widest(axis) if axis.is_turned else axis.style.height_px


def _draw_frame(image: Indices, corner: tuple[int, int], height: int, width: int) -> None:
    """Draw a line of one pixel around the cells, outside of them."""
    top, left = corner[0] - 1, corner[1] - 1
    bottom, right = corner[0] + height, corner[1] + width
    image[[top, bottom], left : right + 1] = BLACK
    image[top : bottom + 1, [left, right]] = BLACK


def _draw_ticks(
    image: Indices, corner: tuple[int, int], panel: Panel, *, with_queries: bool, with_keys: bool
) -> None:
    row, column = corner
    if with_queries:
        for px, label in panel.queries.ticks:
            image[row + px, column - 1 - TICK_PX : column] = BLACK
            drawn = line(label, panel.queries.style)
            left = column - 1 - TICK_PX - GAP_PX - drawn.shape[1]
            paste(image, drawn, top=row + px - drawn.shape[0] // 2, left=left)
    if with_keys:
        below = row + panel.queries.length_px
        for px, label in panel.keys.ticks:
            image[below : below + 1 + TICK_PX, column + px] = BLACK
            drawn, top = line(label, panel.keys.style), below + TICK_PX
            if panel.keys.is_turned:
                drawn, top = np.rot90(drawn), top + GAP_PX
            # Pushed inwards at the ends, where it would run into that of the next panel.
            last = panel.keys.length_px + OVERHANG_PX - drawn.shape[1]
            left = column + max(-OVERHANG_PX, min(px - drawn.shape[1] // 2, last))
            paste(image, drawn, top=top, left=left)


def _draw_bar(image: Indices, left: int, rows: tuple[int, int], scale: Scale, style: Style) -> None:
    """Draw the colour bar, 0 at the bottom, on the scale of the cells."""
    top, bottom = rows
    height = bottom - top
    colours = np.rint(np.linspace(NUM_COLOURS - 1, 0, height)).astype(np.uint8)
    image[top:bottom, left : left + BAR_PX] = colours[:, None]
    _draw_frame(image, (top, left), height, BAR_PX)
    right = left + BAR_PX
    lowest_free = bottom + style.height_px  # a label must not run into the one below it
    for tick in scale.ticks:
        row = top + round((height - 1) * (1 - scale.place(tick)))
        if row > lowest_free:
            continue
        image[row, right : right + 1 + TICK_PX] = BLACK
        drawn = line(f"{tick:g}", style)
        paste(image, drawn, top=row - drawn.shape[0] // 2, left=right + 1 + TICK_PX + GAP_PX)
        lowest_free = row - style.height_px


def _center(image: Indices, drawn: Indices, top: int, columns: tuple[int, int]) -> None:
    paste(image, drawn, top=top, left=(sum(columns) - drawn.shape[1]) // 2)


def _center_upright(image: Indices, drawn: Indices, left: int, rows: tuple[int, int]) -> None:
    """Draw text that reads from bottom to top."""
    upright = np.rot90(drawn)
    top = max(rows[0], (sum(rows) - upright.shape[0]) // 2)  # not into the titles
    paste(image, upright, top=top, left=left)
