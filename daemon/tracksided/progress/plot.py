"""The picture of a report: loss, learning rate, gradient norm and histogram of one run or several.

The only file here that knows matplotlib. Its object interface is used, never pyplot: no global
state, no window.
"""

import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import (
    LogLocator,
    MaxNLocator,
    NullFormatter,
    NullLocator,
    StrMethodFormatter,
)
from numpy.typing import NDArray

from tracksided.errors import ReportError
from tracksided.progress.curve import Series, TrainingCurve
from tracksided.progress.smoothing import moving_average, outline, window_of
from tracksided.progress.wording import number, readable
from tracksided.renderers.lettering import drawable

DPI = 110
SIZE_INCHES = (12.5, 8.2)
# Okabe and Ito 2008, without yellow, which is too pale on white; in an order in which the first
# ones differ most to the colour-blind.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#000000", "#56B4E9", "#E69F00", "#CC79A7")
LINE_STYLES = ("-", "--", "-.", ":")  # the next one once all colours are used
EVALUATION_COLOUR = "#D55E00"  # of a single run
GUIDE_COLOUR = "#444444"
BROKEN_COLOUR = "#882255"
THIN, THICK = 0.8, 1.7
MORE_BELOW = 1.1  # what each curve is wider than the next one, which may cover it
MAX_BELOW = 3
FEW_POINTS = 40  # each gets a mark of its own
MAX_BROKEN_LINES = 200
LOG_SPAN = 30.0  # a loss that falls by more is drawn on a logarithmic scale
DECADE, TWO_DECADES = 3.0, 100.0  # spans at which a logarithmic axis has other labels
MIN_BINS, MAX_BINS = 8, 60
ONE_VALUE_BINS = 3  # around it, where all values are one
ONE_VALUE_SHARE = 0.05  # of it, the width of these
STEP_TICKS, COUNT_TICKS, NARROW_TICKS = 7, 6, 5  # at most: the more, the less they read
PALE = 0.4  # opacity of values below their average
FILL, FILL_OF_MANY = 0.5, 0.12  # opacity of a histogram; of several, which lie over each other
ROOM = 0.06  # of a logarithmic span, below and above it
MIN_ROOM = 1.15  # times the value, where there is no span
BROKEN_HEIGHT = 0.06  # of the axes
TITLE_POINTS, AXES_TITLE_POINTS, LEGEND_POINTS = 13, 11, 9
MAX_NAME_LETTERS = 48
LEGEND_ROWS = 6
_EVALUATION: Mapping[str, Any] = {"linestyle": (0, (4, 2)), "linewidth": 1.3}
_HOLLOW: Mapping[str, Any] = {"marker": "o", "markersize": 4.5, "markerfacecolor": "white"}
_NOT_OFFERED = {"pgf"}  # needs LaTeX


def draw(curves: Sequence[TrainingCurve], extension: str) -> bytes:
    """Draw one curve, or several over each other.

    Args:
        curves: at least one; the order is that of the legend.
        extension: of the file, without its dot.

    Raises:
        ReportError: the extension is none that can be written, or no curve has anything to draw.
    """
    figure = Figure(figsize=SIZE_INCHES, dpi=DPI, layout="constrained")
    known = sorted(set(FigureCanvasAgg(figure).get_supported_filetypes()) - _NOT_OFFERED)
    if extension.lower() not in known:
        raise ReportError(f"cannot write a picture as {extension!r}; known: {', '.join(known)}")
    if not any(len(s) for c in curves for s in (c.loss, c.learning_rate, c.gradient_norm)):
        sources = ", ".join(readable(curve.source) for curve in curves)
        raise ReportError(f"{sources} has neither loss nor learning rate nor gradient norm to draw")
    figure.suptitle(_title(curves), fontsize=TITLE_POINTS, fontweight="bold")
    loss, rate, norm, histogram = figure.subplots(2, 2).flat
    for axes in (loss, rate, norm):
        axes.set_xlabel("step")
        axes.xaxis.set_major_locator(MaxNLocator(nbins=STEP_TICKS, integer=True, min_n_ticks=1))
    _draw_loss(loss, curves)
    _draw_rate(rate, curves)
    _draw_norm(norm, curves)
    _draw_histogram(histogram, curves)
    for axes in (loss, rate, norm, histogram):
        axes.grid(visible=True, alpha=0.25, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.title.set_fontsize(AXES_TITLE_POINTS)
    file = io.BytesIO()
    figure.savefig(file, format=extension.lower())
    return file.getvalue()


def _title(curves: Sequence[TrainingCurve]) -> str:
    if len(curves) > 1:
        return f"{len(curves)} runs"
    (curve,) = curves
    title = _label(curve)
    if curve.step is not None:
        title += f", step {curve.step}"
        title += "" if curve.max_steps is None else f" of {curve.max_steps}"
    return title


def _draw_loss(axes: Axes, curves: Sequence[TrainingCurve]) -> None:
    axes.set_title("Loss")
    columns = [s.finite.values for curve in curves for s in (curve.loss, curve.evaluation_loss)]
    values = np.concatenate(columns)
    if not len(values):
        _say_empty(axes, "loss", [curve.loss for curve in curves])
        return
    is_single = len(curves) == 1
    for index, curve in enumerate(curves):
        window = window_of(curve.loss)
        average = moving_average(curve.loss, window)
        label = _label(curve)
        names = ("training", f"moving average of {window}") if is_single else (label, label)
        _smoothed(axes, curve.loss, average, _Pen.of(index, curves), names)
    for index, curve in enumerate(curves):
        colour = EVALUATION_COLOUR if is_single else _Pen.of(index, curves).colour
        _evaluation(axes, curve.evaluation_loss.finite, colour)
    if any(len(curve.evaluation_loss) for curve in curves):
        colour = EVALUATION_COLOUR if is_single else GUIDE_COLOUR
        axes.plot([], [], color=colour, label="evaluation", **_EVALUATION, **_HOLLOW)
    _mark_broken(axes, [curve.loss for curve in curves], "loss")
    if _is_wide(values):
        _use_log_scale(axes, values)
    axes.set_ylabel("loss")
    _legend(axes)


def _draw_rate(axes: Axes, curves: Sequence[TrainingCurve]) -> None:
    axes.set_title("Learning rate")
    if not any(len(curve.learning_rate.finite) for curve in curves):
        _say_empty(axes, "learning rate", [curve.learning_rate for curve in curves])
        return
    for index, curve in enumerate(curves):
        pen = _Pen.of(index, curves)
        _line(axes, curve.learning_rate, pen, width=pen.width)
    axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 4))
    axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))


def _draw_norm(axes: Axes, curves: Sequence[TrainingCurve]) -> None:
    axes.set_title("Gradient norm")
    positive = [_positive(curve.gradient_norm) for curve in curves]
    if not any(map(len, positive)):
        _say_empty(axes, "gradient norm", [curve.gradient_norm for curve in curves])
        return
    # A limit of 0 has no place on a logarithmic scale.
    limits = [
        limit if (limit := curve.max_gradient_norm) and limit > 0 else None for curve in curves
    ]
    shown = {value for value in limits if value is not None}
    _use_log_scale(axes, np.concatenate([*(s.values for s in positive), np.array(list(shown))]))
    for index, (series, limit) in enumerate(zip(positive, limits, strict=True)):
        pen = _Pen.of(index, curves)
        window = window_of(series)
        # Of logarithms: one spike does not lift a whole window.
        logarithms = moving_average(Series(series.steps, np.log(series.values)), window)
        average = Series(logarithms.steps, np.exp(logarithms.values))
        names = ("norm", f"geometric mean of {window}") if len(curves) == 1 else (None, None)
        _smoothed(axes, series, average, pen, names)
        if limit is not None and limit not in limits[:index]:
            colour = GUIDE_COLOUR if len(shown) == 1 else pen.colour
            label = f"clipped to {number(limit)}"
            axes.axhline(limit, color=colour, linestyle=":", linewidth=1.3, label=label)
    _mark_broken(axes, [curve.gradient_norm for curve in curves], "norm")
    axes.set_ylabel("L2 norm, logarithmic")
    _legend(axes)


def _draw_histogram(axes: Axes, curves: Sequence[TrainingCurve]) -> None:
    axes.set_title("Loss histogram")
    finite = [curve.loss.finite.values for curve in curves]
    values = np.concatenate(finite)
    if not len(values):
        _say_empty(axes, "loss", [curve.loss for curve in curves])
        return
    is_single, is_log = len(curves) == 1, _is_wide(values)
    edges = np.exp(_edges(np.log(values))) if is_log else _edges(values)
    # Rounding must not put the outermost values outside.
    edges[0], edges[-1] = min(edges[0], values.min()), max(edges[-1], values.max())
    for index, column in enumerate(finite):
        if len(column):
            pen = _Pen.of(index, curves)
            counts, _ = np.histogram(column, edges)
            heights = counts if is_single else counts / len(column)
            alpha = FILL if is_single else FILL_OF_MANY
            axes.stairs(heights, edges, fill=True, color=pen.colour, alpha=alpha)
            axes.stairs(heights, edges, color=pen.colour, linestyle=pen.style, linewidth=pen.width)
    if is_single:
        last = float(values[-1])
        label = f"last: {number(last)}"
        axes.axvline(last, color=GUIDE_COLOUR, linestyle=":", linewidth=1.5, label=label)
        axes.yaxis.set_major_locator(MaxNLocator(nbins=COUNT_TICKS, integer=True))
        _legend(axes)
    if is_log:
        axes.set_xscale("log")
        _label_log(axes.xaxis, float(values.min()), float(values.max()))
    axes.set_ylim(bottom=0)
    axes.set_xlabel("training loss")
    axes.set_ylabel("logged values" if is_single else "share of a run's logged values")


def _edges(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Choose bins by Freedman and Diaconis, within limits; one value gets bins around it."""
    low, high = float(values.min()), float(values.max())
    if not high - low > np.spacing(max(abs(low), abs(high))) * MAX_BINS:
        reach = ONE_VALUE_BINS / 2 * ONE_VALUE_SHARE * max(abs(low), 1.0)
        return np.linspace(low - reach, low + reach, ONE_VALUE_BINS + 1)
    quartiles = np.percentile(values, (25, 75))
    width = 2 * float(quartiles[1] - quartiles[0]) / len(values) ** (1 / 3)
    most = min(MAX_BINS, max(MIN_BINS, 2 * int(len(values) ** 0.5)))
    wanted = (high - low) / width if width > 0 else most
    return np.linspace(low, high, int(np.clip(np.ceil(wanted), MIN_BINS, most)) + 1)


@dataclass(frozen=True, slots=True)
class _Pen:
    """How a curve is drawn."""

    colour: str
    style: str
    width: float

    @classmethod
    def of(cls, index: int, curves: Sequence[TrainingCurve]) -> "_Pen":
        """Return the pen of one of several curves: earlier ones are wider, to show below."""
        width = THICK + MORE_BELOW * min(len(curves) - 1 - index, MAX_BELOW)
        style = LINE_STYLES[index // len(COLOURS) % len(LINE_STYLES)]
        return cls(COLOURS[index % len(COLOURS)], style, width)


def _smoothed(
    axes: Axes,
    series: Series,
    average: Series,
    pen: _Pen,
    names: tuple[str | None, str | None],
) -> None:
    """Draw values thin and pale below their average, or alone where there is none."""
    if not len(average):
        _line(axes, series, pen, width=pen.width, label=names[0])
        return
    raw_name = names[0] if names[0] != names[1] else None
    _line(axes, series, replace(pen, style="-"), width=THIN, alpha=PALE, label=raw_name)
    _line(axes, average, pen, width=pen.width, label=names[1], is_marked=False)


def _line(
    axes: Axes,
    series: Series,
    pen: _Pen,
    *,
    width: float,
    alpha: float = 1.0,
    label: str | None = None,
    is_marked: bool = True,
) -> None:
    shown = outline(series)
    if len(shown):
        axes.plot(
            shown.steps,
            shown.values,
            color=pen.colour,
            linestyle=pen.style,
            linewidth=width,
            alpha=alpha,
            label=label,
            marker="o" if is_marked and len(shown) <= FEW_POINTS else None,
            markersize=2 + width,
        )


def _evaluation(axes: Axes, series: Series, colour: str) -> None:
    if len(series):
        marks = _HOLLOW if len(series) <= FEW_POINTS else {}
        shown = outline(series)
        axes.plot(shown.steps, shown.values, color=colour, **_EVALUATION, **marks)


def _positive(series: Series) -> Series:
    """Leave out what a logarithmic scale has no place for."""
    finite = series.finite
    is_positive = finite.values > 0
    return Series(finite.steps[is_positive], finite.values[is_positive])


def _mark_broken(axes: Axes, columns: Iterable[Series], what: str) -> None:
    """Mark the steps at which a value was NaN or infinite."""
    broken = np.concatenate([s.steps[~np.isfinite(s.values)] for s in columns])
    if not len(broken):
        return
    shown = broken[np.linspace(0, len(broken) - 1, min(len(broken), MAX_BROKEN_LINES)).astype(int)]
    axes.vlines(
        shown,
        0,
        BROKEN_HEIGHT,
        transform=axes.get_xaxis_transform(),  # across the steps, in shares of the height
        color=BROKEN_COLOUR,
        linewidth=1.8,
        label=f"{what} NaN or infinite ({len(broken)})",
    )


def _is_wide(values: NDArray[np.float64]) -> bool:
    """Whether a logarithmic scale shows values better."""
    low, high = float(values.min()), float(values.max())
    return low > 0 and high / low > LOG_SPAN


def _use_log_scale(axes: Axes, values: NDArray[np.float64]) -> None:
    # First the limits: to choose them itself, matplotlib warns where all values are one.
    low, high = float(values.min()), float(values.max())
    room = max((high / low) ** ROOM, MIN_ROOM)
    axes.set_ylim(low / room, high * room)
    axes.set_yscale("log")
    _label_log(axes.yaxis, low / room, high * room)


def _label_log(axis: Axis, low: float, high: float) -> None:
    """Label a logarithmic axis with plain numbers, as many as its span has room for."""
    if high / low < DECADE:
        axis.set_major_locator(MaxNLocator(nbins=NARROW_TICKS))
        axis.set_minor_locator(NullLocator())
    elif high / low < TWO_DECADES:
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_formatter(NullFormatter())


def _legend(axes: Axes) -> None:
    count = len(axes.get_legend_handles_labels()[1])
    if count:
        columns = -(-count // LEGEND_ROWS)
        axes.legend(fontsize=LEGEND_POINTS, framealpha=0.85, edgecolor="none", ncols=columns)


def _say_empty(axes: Axes, what: str, columns: Sequence[Series]) -> None:
    count = sum(map(len, columns))
    # What was logged may be NaN; a logarithmic scale has no place for 0 either.
    text = f"none of {count} values can be drawn" if count else f"no {what} was logged"
    axes.text(0.5, 0.5, text, ha="center", va="center", color="#666666", transform=axes.transAxes)
    axes.set_xlabel("")
    axes.set_xticks([])
    axes.set_yticks([])


def _label(curve: TrainingCurve) -> str:
    """Return a name for title and legend; a long one keeps its end, which tells more."""
    plain = drawable(readable(curve.name))
    if len(plain) > MAX_NAME_LETTERS:
        plain = f"...{plain[3 - MAX_NAME_LETTERS :]}"
    return plain.replace("$", r"\$")  # a pair of dollar signs would be read as mathematics
