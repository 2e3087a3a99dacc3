"""Gradient norm, largest gradient and update ratio of every parameter, in model order."""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tracksided.renderers.lettering import Style, fit, line, paste, width_px
from tracksided.renderers.log_chart import (
    GAP_PX,
    TICK_PX,
    TICK_STYLE,
    DoubleArray,
    LogChart,
    LogScale,
)
from tracksided.renderers.palette import BLACK, WHITE, Indices, chart_palette_bytes
from tracksided.renderers.png import encode
from tracksided.reports import Picture
from tracksided.stages import StepData

FILE_NAME = "gradient_flow.png"
TAG = "Training/Gradient_Flow"
# Okabe and Ito's colours, told apart with any kind of colour blindness, and lighter ones of two.
COLOURS = ("0072b2", "a3cbe8", "e69f00", "009e73", "8fd0bd", "d55e00", "555555")
NORM, NORM_RANGE, LARGEST, RATIO, RATIO_RANGE, BROKEN, ZERO = range(len(COLOURS))

CHART_PX = 600
MAX_COLUMNS = 200  # three pixels each; more parameters share them
GRADIENT_PX = 260
RATIO_PX = 150
ZERO_PX = 12
MARGIN_PX = 12
NAMES_PX = 300  # of the longest name that is not shortened
TITLE_STYLE = Style(16, is_bold=True)
TEXT_STYLE = Style(13)
NAME_STYLES = (Style(10), Style(8))  # the first in which all names stand side by side
SWATCH_PX = 14
# Exponents of ten that the scales have whatever the values: pictures of steps compare.
USUAL_GRADIENTS = (-6, 1)
USUAL_RATIOS = (-6, -1)
USUAL_RATIO = 1e-3  # about so much of a weight per step; see docs/stages.md


@dataclass(frozen=True, slots=True)
class GradientFlow:
    """Draws ``gradient_flow.png``."""

    name: str = field(default="gradient_flow", init=False)

    def render(self, step: StepData) -> Iterable[Picture]:
        """Yield one picture, or none where the step has no parameters."""
        parameters = (step.gradient_statistics or {}).get("parameters", [])
        if parameters:
            image = _draw(step.step, _Columns(parameters))
            png = encode(image, chart_palette_bytes(COLOURS))
            yield Picture(FILE_NAME, TAG, png, image.shape[1], image.shape[0])


class _Columns:
    """The parameters, as many to a column as must share one."""

    def __init__(self, parameters: Sequence[Mapping[str, Any]]) -> None:
        self.num_parameters = len(parameters)
        self.per_column = -(-len(parameters) // MAX_COLUMNS)
        self.count = -(-len(parameters) // self.per_column)
        self.column_px = CHART_PX // self.count
        names = [str(parameter["name"]) for parameter in parameters]
        self.prefix = _common_prefix(names)
        self.names = [name[len(self.prefix) :] for name in names[:: self.per_column]]
        """Of the first parameter of each column."""

        self.norms = self._column(parameters, "norm")
        self.largest = self._column(parameters, "abs_max")
        self.ratios = self._column(parameters, "update_ratio")
        self.broken = self._any([bool(parameter.get("nonfinite")) for parameter in parameters])
        self.zero = (self.norms == 0).any(axis=1)

    def _column(self, parameters: Sequence[Mapping[str, Any]], name: str) -> DoubleArray:
        """Return [columns, per column]; NaN where a value is unknown or not finite."""
        values = np.full(self.count * self.per_column, np.nan)
        known = [parameter.get(name) for parameter in parameters]
        values[: len(known)] = [np.nan if value is None else value for value in known]
        values[np.isinf(values)] = np.nan
        return values.reshape(self.count, self.per_column)

    def _any(self, flags: Sequence[bool]) -> np.ndarray:
        padded = np.zeros(self.count * self.per_column, dtype=np.bool_)
        padded[: len(flags)] = flags
        return np.asarray(padded.reshape(self.count, self.per_column).any(axis=1))


def _draw(step: int, columns: _Columns) -> Indices:
    title = f"gradient flow, step {step}"
    remarks = _remarks(columns)
    legend = _legend(columns)
    left = MARGIN_PX + TEXT_STYLE.height_px + width_px("1e-16", TICK_STYLE) + GAP_PX + TICK_PX
    width = left + CHART_PX + MARGIN_PX
    above = MARGIN_PX + TITLE_STYLE.height_px + (len(remarks) + len(legend)) * TEXT_STYLE.height_px
    gradients_top = above + 2 * GAP_PX
    ratios_top = gradients_top + GRADIENT_PX + 4 * GAP_PX
    names_top = ratios_top + RATIO_PX + TICK_PX + GAP_PX
    style, labels = _name_labels(columns)
    names_px = max(width_px(label, style) for _, label in labels)
    image = np.full((names_top + names_px + MARGIN_PX, width), WHITE, dtype=np.uint8)

    top = MARGIN_PX
    paste(image, fit(title, TITLE_STYLE, width - 2 * MARGIN_PX), top=top, left=MARGIN_PX)
    top += TITLE_STYLE.height_px
    for remark in remarks:
        paste(image, fit(remark, TEXT_STYLE, width - 2 * MARGIN_PX), top=top, left=MARGIN_PX)
        top += TEXT_STYLE.height_px
    for row in legend:
        _draw_legend(image, row, top, left)
        top += TEXT_STYLE.height_px
    _gradient_chart(columns).draw(image, gradients_top, left)
    _upright(image, "gradient", (gradients_top, gradients_top + GRADIENT_PX))
    ratios = _ratio_chart(columns)
    ratios.draw(image, ratios_top, left)
    usual = ratios_top + ratios.scale.row(USUAL_RATIO)
    image[usual, left : left + columns.count * columns.column_px : 4] = BLACK
    _upright(image, "update / weight", (ratios_top, ratios_top + RATIO_PX))
    for index, label in labels:
        middle = left + index * columns.column_px + columns.column_px // 2
        image[ratios_top + RATIO_PX : ratios_top + RATIO_PX + TICK_PX, middle] = BLACK
        drawn = np.rot90(line(label, style))
        paste(image, drawn, top=names_top, left=middle - drawn.shape[1] // 2)
    return image


def _gradient_chart(columns: _Columns) -> LogChart:
    values = np.concatenate([columns.norms.ravel(), columns.largest.ravel()])
    scale = LogScale.around(USUAL_GRADIENTS, values, GRADIENT_PX)
    chart = LogChart(scale, columns.count, columns.column_px)
    chart.fill(_over(np.nanmax, columns.norms), NORM if columns.per_column == 1 else NORM_RANGE)
    chart.fill(_over(np.nanmin, np.where(columns.norms > 0, columns.norms, np.nan)), NORM)
    chart.mark(_over(np.nanmax, columns.largest), LARGEST)
    chart.foot(columns.zero, ZERO, height_px=ZERO_PX)
    chart.stripe(columns.broken, BROKEN)
    return chart


def _ratio_chart(columns: _Columns) -> LogChart:
    ratios = columns.ratios
    scale = LogScale.around(USUAL_RATIOS, ratios.ravel(), RATIO_PX)
    chart = LogChart(scale, columns.count, columns.column_px)
    if columns.per_column > 1:
        positive = np.where(ratios > 0, ratios, np.nan)
        chart.band(_over(np.nanmin, positive), _over(np.nanmax, positive), RATIO_RANGE)
    chart.mark(_over(np.nanmedian, ratios), RATIO)
    return chart


def _over(reduce: Any, values: DoubleArray) -> DoubleArray:
    """Reduce each column; NaN where nothing in it is known."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # columns of NaN are meant
        return np.asarray(reduce(values, axis=1))


def _remarks(columns: _Columns) -> list[str]:
    remarks = []
    if columns.per_column > 1:
        remarks.append(f"{columns.num_parameters} parameters, {columns.per_column} to a column")
    if columns.prefix:
        remarks.append(f"all names begin with {columns.prefix}")
    return remarks


def _legend(columns: _Columns) -> list[list[tuple[int, str]]]:
    """Return rows of colour and meaning."""
    is_shared = columns.per_column > 1
    entries = [(NORM, "smallest L2 norm" if is_shared else "L2 norm")]
    if is_shared:
        entries.append((NORM_RANGE, "largest L2 norm"))
    entries.append((LARGEST, "largest element"))
    entries.append((RATIO, "median update / weight" if is_shared else "update / weight"))
    if columns.broken.any():
        entries.append((BROKEN, "NaN or infinite"))
    if columns.zero.any():
        entries.append((ZERO, "all elements 0"))
    rows: list[list[tuple[int, str]]] = [[]]
    used = 0
    for colour, meaning in entries:
        taken = _legend_px(meaning)
        if used + taken > CHART_PX and rows[-1]:
            rows.append([])
            used = 0
        rows[-1].append((colour, meaning))
        used += taken
    return rows


def _legend_px(meaning: str) -> int:
    return SWATCH_PX + 3 * GAP_PX + width_px(meaning, TEXT_STYLE)


def _draw_legend(image: Indices, entries: Sequence[tuple[int, str]], top: int, left: int) -> None:
    for colour, meaning in entries:
        swatch_top = top + (TEXT_STYLE.height_px - SWATCH_PX) // 2
        image[swatch_top : swatch_top + SWATCH_PX, left : left + SWATCH_PX] = colour
        if colour == BROKEN:
            image[swatch_top + 4 : swatch_top + SWATCH_PX : 8, left : left + SWATCH_PX] = WHITE
        paste(image, line(meaning, TEXT_STYLE), top=top, left=left + SWATCH_PX + GAP_PX)
        left += _legend_px(meaning)


def _upright(image: Indices, text: str, rows: tuple[int, int]) -> None:
    drawn = np.rot90(line(text, TEXT_STYLE))
    paste(image, drawn, top=(sum(rows) - drawn.shape[0]) // 2, left=MARGIN_PX)


def _name_labels(columns: _Columns) -> tuple[Style, list[tuple[int, str]]]:
    """Return column and name, of all or as many as stand side by side."""
    length_px = columns.count * columns.column_px
    fitting = (style for style in NAME_STYLES if columns.count * style.height_px <= length_px)
    style = next(fitting, NAME_STYLES[0])
    stride = -(-columns.count * style.height_px // length_px)
    return style, [
        (index, _end_of(columns.names[index], style)) for index in range(0, columns.count, stride)
    ]


def _end_of(name: str, style: Style) -> str:
    """Return a name, or as much of its end as there is room for: that tells more."""
    shown = name
    while (width := width_px(shown, style)) > NAMES_PX:
        kept = min(len(name) - 1, len(shown) * NAMES_PX // width)
        name = name[len(name) - kept :]
        shown = f"...{name[3:]}"
    return shown


def _common_prefix(names: Sequence[str]) -> str:
    """Return the leading components that all names share, with the dot behind them."""
    if len(names) < 2:  # noqa: PLR2004 - nothing to share
        return ""
    first, last = min(names).split("."), max(names).split(".")
    shared = 0
    while shared < min(len(first), len(last)) - 1 and first[shared] == last[shared]:
        shared += 1
    return "".join(f"{part}." for part in first[:shared])
