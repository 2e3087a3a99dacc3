"""Which layers carry the gradient, over a whole run."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from tracksided.renderers.axes import make_axis
from tracksided.renderers.canvas import Labels, Panel
from tracksided.renderers.maps import ReducedPanel, draw
from tracksided.renderers.palette import WEIGHT, colour_indices
from tracksided.renderers.thinning import thinned
from tracksided.reports import Picture
from tracksided.stages import RunData

FILE_NAME = "gradient_share.png"
MAX_STEPS = 512  # one pixel each
MAX_LAYERS = 48  # rows that can still be told apart
WIDTH_PX = 512
ROW_PX = 36
MAX_HEIGHT_PX = 624
LABELS = Labels(across="step", upright="layer", bar="share of squared norm", scale=WEIGHT)


@dataclass(frozen=True, slots=True)
class GradientShare:
    """Draws ``overview/gradient_share.png``: |g_layer|^2 / |g|^2 by layer and step.

    Source: Pascanu et al. 2012, arXiv:1211.5063 (norms that vanish or explode with depth).
    """

    name: str = field(default="gradient_share", init=False)

    def render(self, run: RunData) -> Iterable[Picture]:
        """Yield one picture, or none where no norm of a layer is known."""
        steps = thinned(run.steps, MAX_STEPS)
        found = [shares(run.line(step).get("layer_norms") or {}) for step in steps]
        layers = thinned(list({layer: None for entry in found for layer in entry}), MAX_LAYERS)
        if not layers:
            return
        values = np.array(
            [[entry.get(layer, np.nan) for entry in found] for layer in layers], dtype=np.float32
        )  # [layers, steps]
        rows = make_axis(
            np.arange(len(layers)),
            max_cells=len(layers),
            max_px=min(MAX_HEIGHT_PX, ROW_PX * len(layers)),
            is_upright=True,
            tokens=layers,
        )
        columns = make_axis(
            np.array([step.step for step in steps]),
            max_cells=len(steps),
            max_px=WIDTH_PX,
            is_upright=False,
        )
        panel = ReducedPanel("", Panel(rows, columns), colour_indices(values, WEIGHT))
        titles = ("gradient by layer and step", f"sampled steps: {len(steps)}")
        yield draw(FILE_NAME, None, titles, (panel,), labels=LABELS)


def shares(norms: Mapping[str, float | None]) -> dict[str, float]:
    """Return the share of each layer in the squared norm; none where all are 0."""
    squares = {layer: norm**2 for layer, norm in norms.items() if norm is not None}
    total = sum(squares.values())
    return {layer: square / total for layer, square in squares.items()} if total > 0 else {}
