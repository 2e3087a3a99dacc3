"""What each key receives: which positions the heads keep going back to."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from tracksided.attention import map_name
from tracksided.renderers.axes import make_axis
from tracksided.renderers.canvas import Labels, Panel
from tracksided.renderers.maps import ReducedPanel, draw, headline, kind, map_panel
from tracksided.renderers.palette import WEIGHT, colour_indices
from tracksided.renderers.pooling import pool
from tracksided.reports import Picture
from tracksided.samples import FloatArray
from tracksided.stages import AttentionMap, StepData

WIDTH_PX = 512
ROW_PX = 48
MAX_HEIGHT_PX = 512
LABELS = Labels(across="key position", upright="head", bar="mean weight received", scale=WEIGHT)


@dataclass(frozen=True, slots=True)
class ReceivedAttention:
    """Draws ``decoder_layer0_self_attn_received.png`` and its like: a row per head.

    The sum of what a key receives is how "heavy hitters" are found; here it is divided by the
    number of rows that may look there, or the first keys of a causal map would always win.

    Source: Zhang et al. 2023, arXiv:2306.14048.
    """

    name: str = field(default="received", init=False)

    def render(self, step: StepData) -> Iterable[Picture]:
        """Yield one picture per map; keys that nobody may look at are grey."""
        for attention in step.maps:
            received = received_weight(attention)
            keys = np.arange(received.shape[1])
            tokens = map_panel("", attention, step.tokens, received).key_tokens
            height_px = min(MAX_HEIGHT_PX, ROW_PX * len(attention.heads))
            panel = Panel(
                make_axis(
                    np.array(attention.heads),
                    max_cells=len(attention.heads),
                    max_px=height_px,
                    is_upright=True,
                ),
                make_axis(
                    keys, max_cells=WIDTH_PX, max_px=WIDTH_PX, is_upright=False, tokens=tokens
                ),
            )
            cells = colour_indices(pool(received, 1, panel.keys.block), WEIGHT)
            stem = f"attention/{attention.stack}_layer{attention.layer}_{kind(attention)}"
            yield draw(
                f"{map_name(attention)}_received.png",
                f"{stem}_received",
                (headline(attention, step.step), attention.module, "what each key receives"),
                (ReducedPanel("", panel, cells),),
                labels=LABELS,
            )


def received_weight(attention: AttentionMap) -> FloatArray:
    """Return the mean weight of each key over the rows that may look at it, [heads, keys]."""
    lookers = attention.visible.sum(axis=1)  # [1 or heads, keys]
    with np.errstate(invalid="ignore"):
        received = attention.weights.sum(axis=1, dtype=np.float64) / lookers
    return np.asarray(received, dtype=np.float32)
