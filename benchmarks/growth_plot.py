"""Draw the sweeps of `growth.py` from its results: ratios to the base on logarithmic axes."""

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

SIZE_INCHES = (12.0, 7.2)
DPI = 100
COLUMNS = 3
# Okabe and Ito 2008: told apart by the colour-blind.
SERIES = {
    "trainer_ms": ("a sample adds to the trainer", "#0072B2", "o"),
    "daemon_ms": ("daemon, each sampled step", "#D55E00", "s"),
    "seconds": ("seconds of an average", "#0072B2", "o"),
    "peak_mb": ("peak resident memory", "#009E73", "^"),
}
RATIOS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50)
SMALLEST = 0.05  # a ratio below it, or none, is lost in the noise
MARGIN = 1.3


def draw(found: Mapping[str, Any]) -> bytes:
    """Draw every sweep; return PNG."""
    tables = found["tables"]
    rows = -(-len(tables) // COLUMNS)
    figure = Figure(figsize=SIZE_INCHES, dpi=DPI, layout="constrained")
    grid = figure.subplots(rows, COLUMNS, squeeze=False)
    for axes, (name, table) in zip(grid.flat, tables.items(), strict=False):
        draw_sweep(axes, name, table)
    for axes in grid.flat[len(tables) :]:
        axes.set_axis_off()
    figure.suptitle("Cost against that of the base; bars: interval of the median")
    file = io.BytesIO()
    FigureCanvasAgg(figure).print_png(file)
    return file.getvalue()


def draw_sweep(axes: Axes, name: str, table: Mapping[str, Any]) -> None:
    rows = table["rows"]
    shown = [key for key in SERIES if key in rows[0]]
    base = next(row for row in rows if all(row[f"{key}_ratio"] == 1 for key in shown))
    places = [row[name] for row in rows]
    ratios = []
    for key in shown:
        label, colour, marker = SERIES[key]
        low, middle, high = (
            [max(row[key][part] / base[key]["median"], SMALLEST) for row in rows]
            for part in ("low", "median", "high")
        )
        bars = [np.subtract(middle, low), np.subtract(high, middle)]
        axes.errorbar(places, middle, bars, color=colour, marker=marker, capsize=3, label=label)
        ratios += [*low, *high]
    proportional = [place / base[name] for place in places]
    axes.plot(places, proportional, color="#888888", linestyle=":", label="in proportion")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_ylim(min(ratios + proportional) / MARGIN, max(ratios + proportional) * MARGIN)
    axes.xaxis.set_major_locator(FixedLocator(places))
    axes.yaxis.set_major_locator(FixedLocator(RATIOS))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlabel(table["columns"][0]["title"])
    axes.set_ylabel("times the base")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="upper left")
