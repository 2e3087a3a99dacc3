"""Gradient norm, largest gradient and update ratio of every parameter, in model order."""

import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from tracksided.reports import Picture
from tracksided.stages import StepData

FILE_NAME = "gradient_flow.png"
TAG = "Training/Gradient_Flow"
DPI = 100
WIDTH_INCHES = 10.0
HEIGHT_INCHES = 8.0
MAX_NAMES = 40  # more cannot be read side by side: then every n-th parameter is named
MAX_NAME_LETTERS = 34
NAME_POINTS = 8
LOG_ROOM = 2.0  # between the outermost values and the frame, as a factor
NAME_LETTER_INCHES = 0.064  # of a letter in that size, above the average
PNG_LEVEL = 1  # quick; lines and text shrink well anyway
# About 1e-3 of a weight per step is usual; see docs/stages.md.
USUAL_UPDATE_RATIO = 1e-3


@dataclass(frozen=True, slots=True)
class GradientFlow:
    """Draws ``gradient_flow.png``."""

    name: str = field(default="gradient_flow", init=False)

    def render(self, step: StepData) -> Iterable[Picture]:
        """Yield one picture, or none where the step has no parameters."""
        parameters = (step.gradient_statistics or {}).get("parameters", [])
        if parameters:
            yield _draw(step.step, parameters)


def _draw(step: int, parameters: Sequence[Mapping[str, Any]]) -> Picture:
    # Margins are fixed: to let matplotlib fit them costs more than all the rest.
    figure = Figure(figsize=(WIDTH_INCHES, HEIGHT_INCHES), dpi=DPI)
    canvas = FigureCanvasAgg(figure)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    stride = -(-len(parameters) // MAX_NAMES)
    names = [_shorten(str(parameter["name"])) for parameter in parameters[::stride]]
    bottom = (2 + max(map(len, names))) * NAME_LETTER_INCHES / HEIGHT_INCHES
    figure.subplots_adjust(left=0.085, right=0.98, top=0.93, bottom=bottom, hspace=0.06)
    figure.text(0.016, 0.955, f"gradient flow, step {step}", fontsize=13, fontweight="bold")
    _draw_gradients(above, parameters)
    ratios = _column(parameters, "update_ratio")
    below.plot(np.arange(len(ratios)), ratios, ".-", linewidth=0.8, color="#22884c")
    below.axhline(USUAL_UPDATE_RATIO, linestyle=":", color="grey")
    _use_log_scale(below, ratios)
    below.set_ylabel("update / weight")
    places = range(0, len(parameters), stride)
    below.set_xticks(places, names, rotation=90, fontsize=NAME_POINTS)
    below.set_xlim(-0.7, len(parameters) - 0.3)
    for axes in (above, below):
        axes.grid(visible=True, axis="y", alpha=0.3)
        axes.set_axisbelow(True)
        axes.minorticks_off()  # a third of all drawing time
    canvas.draw()  # type: ignore[no-untyped-call] # matplotlib has no types here
    width, height = canvas.get_width_height()
    file = io.BytesIO()
    pixels = np.asarray(canvas.buffer_rgba())  # type: ignore[no-untyped-call] # as above
    Image.fromarray(pixels[:, :, :3]).save(file, format="png", compress_level=PNG_LEVEL)
    return Picture(FILE_NAME, TAG, file.getvalue(), width, height)


def _draw_gradients(axes: Axes, parameters: Sequence[Mapping[str, Any]]) -> None:
    norms, largest = _column(parameters, "norm"), _column(parameters, "abs_max")
    positive = np.concatenate([column[column > 0] for column in (norms, largest)])
    smallest = positive.min() if positive.size else 0.0
    edges = np.arange(len(parameters) + 1) - 0.5
    axes.stairs(
        norms,
        edges,
        baseline=smallest / LOG_ROOM,
        fill=True,
        color="#7f9fc4",
        label="L2 norm",
        lw=0.5,
    )
    places = np.arange(len(parameters))
    axes.plot(places, largest, "D", markersize=3.5, color="#c2410c", label="largest element")
    _use_log_scale(axes, norms, largest)
    axes.set_ylabel("gradient")
    broken = [i for i, parameter in enumerate(parameters) if parameter.get("nonfinite")]
    if broken:
        marks = axes.get_xaxis_transform()  # across the parameters, in shares of the height
        axes.vlines(
            broken, 0, 1, transform=marks, color="#d62728", alpha=0.5, label="NaN or infinite"
        )
    axes.legend(loc="lower right", ncols=3, bbox_to_anchor=(1, 1), frameon=False)


def _column(parameters: Sequence[Mapping[str, Any]], name: str) -> NDArray[np.float64]:
    """Return one value per parameter; NaN, which is not drawn, where it is unknown or not finite.

    An infinite value would stretch the axis beyond use.
    """
    values = (parameter.get(name) for parameter in parameters)
    return np.array([v if v is not None and math.isfinite(v) else math.nan for v in values])


def _use_log_scale(axes: Axes, *columns: NDArray[np.float64]) -> None:
    """Make an axis logarithmic with room on both sides, unless nothing on it is above 0."""
    positive = np.concatenate([column[column > 0] for column in columns])
    if positive.size:
        # First the limits: to choose them itself, matplotlib warns where all values are one.
        axes.set_ylim(positive.min() / LOG_ROOM, positive.max() * LOG_ROOM)
        axes.set_yscale("log")


def _shorten(name: str) -> str:
    """Keep the end of a long name, which tells more."""
    # matplotlib reads a pair of dollar signs as mathematics, and warns of unknown letters.
    plain = name.encode("ascii", "replace").decode().replace("$", "_")
    return plain if len(plain) <= MAX_NAME_LETTERS else f"...{plain[3 - MAX_NAME_LETTERS :]}"
