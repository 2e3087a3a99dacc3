"""From attention maps to a picture: what heat map, head grid and layer comparison share."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tracksided.renderers.axes import make_axis
from tracksided.renderers.canvas import Labels, Layout, Panel, build_canvas
from tracksided.renderers.palette import WEIGHT, Indices, colour_indices
from tracksided.renderers.png import encode
from tracksided.renderers.pooling import pool
from tracksided.reports import Picture
from tracksided.samples import FloatArray
from tracksided.stages import AttentionMap

SINGLE_MAX_CELLS = 512
SINGLE_MAX_PX = 512  # maps of 257 cells and more keep one pixel a cell
# Panels of a grid: largest side in pixels for up to so many panels.
GRID_SIDES_PX = ((4, 288), (16, 224), (36, 176))
SMALLEST_SIDE_PX = 128
MAP_LABELS = Labels()


@dataclass(frozen=True, slots=True)
class MapPanel:
    """One map to draw."""

    caption: str
    weights: FloatArray
    """[queries, keys]."""

    query_rows: NDArray[np.int64]
    """[queries]: their positions in the sequence."""

    query_tokens: tuple[str, ...] = ()
    """What stands at each position; empty where that is not known."""

    key_tokens: tuple[str, ...] = ()


def side_px(num_panels: int) -> int:
    """Return the largest side of one panel of so many."""
    if num_panels == 1:
        return SINGLE_MAX_PX
    sides = (side for limit, side in GRID_SIDES_PX if num_panels <= limit)
    return next(sides, SMALLEST_SIDE_PX)


@dataclass(frozen=True, slots=True)
class ReducedPanel:
    """A map as it goes onto the canvas."""

    caption: str
    panel: Panel
    cells: Indices
    """[query cells, key cells]."""


def reduce_panel(source: MapPanel, max_side_px: int) -> ReducedPanel:
    """Pool a map and choose its colours."""
    max_cells = min(max_side_px, SINGLE_MAX_CELLS)
    keys = np.arange(source.weights.shape[1])
    panel = Panel(
        make_axis(
            source.query_rows,
            max_cells=max_cells,
            max_px=max_side_px,
            is_upright=True,
            tokens=source.query_tokens,
        ),
        make_axis(
            keys,
            max_cells=max_cells,
            max_px=max_side_px,
            is_upright=False,
            tokens=source.key_tokens,
        ),
    )
    pooled = pool(source.weights, panel.queries.block, panel.keys.block)
    return ReducedPanel(source.caption, panel, colour_indices(pooled, WEIGHT))


def draw(
    file_name: str,
    tag: str | None,
    titles: Sequence[str],
    panels: Sequence[ReducedPanel],
    *,
    labels: Labels = MAP_LABELS,
    num_columns: int | None = None,
) -> Picture:
    """Draw one picture of one or more maps; a single map has no caption.

    Args:
        file_name: of the picture.
        tag: in TensorBoard.
        titles: lines above the maps, at least one.
        panels: row by row.
        labels: of axes and colour bar.
        num_columns: None for as many as there are rows.
    """
    has_captions = len(panels) > 1
    columns = math.ceil(math.sqrt(len(panels))) if num_columns is None else num_columns
    specs = tuple(reduced.panel for reduced in panels)
    layout = Layout(specs, columns, len(titles), has_captions, labels)
    captions = [reduced.caption for reduced in panels] if has_captions else []
    image = build_canvas(layout).draw(titles, captions, [reduced.cells for reduced in panels])
    return Picture(file_name, tag, encode(image), image.shape[1], image.shape[0])


def mean_panel(
    caption: str, attention: AttentionMap, tokens: Sequence[str], max_side_px: int
) -> ReducedPanel:
    """Reduce the mean over the kept heads of a map; see `map_panel` and `reduce_panel`."""
    heads = attention.weights
    weights = heads[0] if len(heads) == 1 else heads.mean(axis=0)  # [queries, keys]
    return reduce_panel(map_panel(caption, attention, tokens, weights), max_side_px)


def map_panel(
    caption: str, attention: AttentionMap, tokens: Sequence[str], weights: FloatArray
) -> MapPanel:
    """Take weights of a map; axes that are as long as the tokens are named by them.

    Where queries and keys of cross attention are both as many, nothing tells which of the two
    sequences the tokens are, and neither is named. ``caption`` stands above the panel.
    """
    known = tuple(tokens)
    names_queries = len(known) == attention.num_queries
    names_keys = len(known) == weights.shape[1]
    if attention.type == "cross_attention" and names_queries and names_keys:
        names_queries = names_keys = False
    return MapPanel(
        caption,
        weights,
        attention.query_rows,
        known if names_queries else (),
        known if names_keys else (),
    )


def kind(attention: AttentionMap) -> str:
    """Return ``self`` or ``cross``."""
    return "self" if attention.type == "self_attention" else "cross"


def headline(attention: AttentionMap, step: int) -> str:
    """Say which map of which step a picture shows."""
    return f"{attention.stack} layer {attention.layer}, {kind(attention)} attention, step {step}"


def heads_shown(attention: AttentionMap) -> str:
    """Say what the mean over the kept heads is a mean of."""
    kept, total = len(attention.heads), attention.num_heads
    if kept == 1:
        return f"head {attention.heads[0]}"
    return f"mean of {kept} heads" if kept == total else f"mean of {kept} of {total} heads"


def reduction(attention: AttentionMap, reduced: ReducedPanel) -> tuple[str, ...]:
    """Say what of a map its picture leaves out: queries not kept, cells pooled."""
    parts: list[str] = []
    num_kept = len(attention.query_rows)
    if num_kept < attention.num_queries:
        parts.append(f"{num_kept} of {attention.num_queries} queries")
    queries, keys = reduced.panel.queries, reduced.panel.keys
    if queries.block > 1 or keys.block > 1:
        parts.append(f"max over {queries.block}x{keys.block}")
    return tuple(parts)
