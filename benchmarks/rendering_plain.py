"""The contestant of `rendering.py`: what a training script would write with matplotlib."""

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl

mpl.use("agg")

import matplotlib.pyplot as plt  # noqa: TID251 - the contestant; after its backend
import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from PIL import Image

MAX_NAMES = 40  # that can be read side by side


def draw_maps_plainly(
    panels: Mapping[str, np.ndarray], step: int, tokens: Sequence[str] = ()
) -> bytes:
    """Draw one map, or several with captions, on a square-root scale."""
    columns = max(1, math.ceil(math.sqrt(len(panels))))
    rows = -(-len(panels) // columns)
    size = (7, 6.5) if len(panels) == 1 else (3.2 * columns, 3 * rows)
    figure, grid = plt.subplots(rows, columns, figsize=size, squeeze=False)
    for axes, (caption, weights) in zip(grid.flat, panels.items(), strict=False):
        image = axes.imshow(weights, cmap="viridis", norm=PowerNorm(0.5, 0, 1), aspect="auto")
        axes.set_title(caption)
        axes.set_xlabel("key position")
        axes.set_ylabel("query position")
        if tokens:
            axes.set_xticks(range(len(tokens)), tokens, rotation=90)
            axes.set_yticks(range(len(tokens)), tokens)
    figure.colorbar(image, ax=grid, label="attention weight")
    figure.suptitle(f"decoder layer 0, self attention, step {step}\ntransformer.h.0.attn")
    return _saved(figure)


def draw_gradients_plainly(parameters: Sequence[Mapping[str, Any]], step: int) -> bytes:
    """Draw norms as bars, largest elements as marks, and update ratios below."""
    figure, (above, below) = plt.subplots(2, 1, figsize=(10, 8), sharex=True)
    places = np.arange(len(parameters))
    above.bar(places, [entry["norm"] for entry in parameters], label="L2 norm")
    largest = [entry["abs_max"] for entry in parameters]
    above.plot(places, largest, "D", markersize=3, label="largest element")
    below.plot(places, [entry["update_ratio"] for entry in parameters], ".")
    stride = -(-len(parameters) // MAX_NAMES)
    names = [entry["name"] for entry in parameters[::stride]]
    below.set_xticks(places[::stride], names, rotation=90, fontsize=8)
    for axes, label in ((above, "gradient"), (below, "update / weight")):
        axes.set_yscale("log")
        axes.set_ylabel(label)
        axes.grid(visible=True, axis="y", alpha=0.3)
    above.legend()
    above.set_title(f"gradient flow, step {step}")
    figure.subplots_adjust(bottom=0.35)
    return _saved(figure)


def draw_entropy_plainly(values: np.ndarray, steps: Sequence[int]) -> bytes:
    """Draw [layers, steps] on a linear scale."""
    figure, axes = plt.subplots(figsize=(7, 4))
    extent = (steps[0], steps[-1], len(values) - 0.5, -0.5)
    image = axes.imshow(values, cmap="viridis", vmin=0, vmax=1, aspect="auto", extent=extent)
    axes.set_xlabel("step")
    axes.set_ylabel("layer")
    axes.set_title("entropy of attention by layer and step")
    figure.colorbar(image, ax=axes, label="entropy / ln(visible keys)")
    return _saved(figure)


def draw_animation_plainly(weights: np.ndarray, step: int, num_frames: int) -> bytes:
    """Draw every frame as a picture of its own, and put them into one file."""
    frames = [
        Image.open(io.BytesIO(draw_maps_plainly({"": weights}, step + index))).convert("RGB")
        for index in range(num_frames)
    ]
    file = io.BytesIO()
    frames[0].save(
        file, format="png", save_all=True, append_images=frames[1:], duration=250, loop=0
    )
    return file.getvalue()


def _saved(figure: Figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png")
    plt.close(figure)
    return file.getvalue()
