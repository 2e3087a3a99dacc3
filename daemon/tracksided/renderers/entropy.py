"""Entropy of attention by layer and step: where and when heads of a layer narrow or widen."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tracksided.renderers.axes import make_axis
from tracksided.renderers.canvas import Labels, Panel
from tracksided.renderers.maps import ReducedPanel, draw
from tracksided.renderers.palette import SHARE, colour_indices
from tracksided.renderers.thinning import thinned
from tracksided.reports import Picture
from tracksided.stages import RecordedStep, RunData

FILE_NAME = "entropy.png"
MAX_STEPS = 512  # one pixel each
WIDTH_PX = 512
MAX_HEIGHT_PX = 384  # of one stack
MIN_HEIGHT_PX = 104
ROW_PX = 26
LABELS = Labels(across="step", upright="layer", bar="entropy / ln(visible keys)", scale=SHARE)
_KINDS = {"self_attention": "self", "cross_attention": "cross"}

# Stack and kind of attention.
_Group = tuple[str, str]


@dataclass(frozen=True, slots=True)
class EntropyByLayer:
    """Draws ``overview/entropy.png``."""

    name: str = field(default="entropy", init=False)

    def render(self, run: RunData) -> Iterable[Picture]:
        """Yield one picture, or none where no entropy is known."""
        steps = thinned(run.steps, MAX_STEPS)
        found = [dict(_entropies(run.line(step))) for step in steps]
        keys = sorted({key for entropies in found for key in entropies}, key=_order)
        if not keys:
            return
        groups: dict[_Group, list[int]] = {}
        for stack, kind, layer in keys:
            groups.setdefault((stack, kind), []).append(layer)
        panels = [_panel(group, layers, steps, found) for group, layers in groups.items()]
        shown = f"{len(steps)} of {len(run.steps)}" if len(steps) < len(run.steps) else len(steps)
        what = panels[0].caption if len(panels) == 1 else "attention"  # else below, by panel
        titles = (
            f"entropy of {what} by layer and step",
            f"sampled steps: {shown}; 0: one key takes all, 1: all visible keys alike",
        )
        yield draw(FILE_NAME, None, titles, panels, labels=LABELS, num_columns=1)


def _order(key: tuple[str, str, int]) -> tuple[bool, bool, int]:
    """Put the encoder first, then what the decoder sees of itself and of the encoder."""
    stack, kind, layer = key
    return stack == "decoder", kind == "cross", layer


def _entropies(line: Mapping[str, Any]) -> Iterable[tuple[tuple[str, str, int], float]]:
    """Yield (stack, kind, layer) and normalized entropy of what a line of history knows."""
    for stack, entries in (line.get("attention") or {}).items():
        for entry in entries:
            value = entry.get("normalized_entropy")
            if value is not None:
                yield (stack, _KINDS[entry["type"]], int(entry["layer"])), float(value)


def _panel(
    group: _Group,
    layers: Sequence[int],
    steps: Sequence[RecordedStep],
    found: Sequence[Mapping[tuple[str, str, int], float]],
) -> ReducedPanel:
    stack, kind = group
    values = np.array(
        [[entropies.get((stack, kind, layer), np.nan) for entropies in found] for layer in layers],
        dtype=np.float32,
    )  # [layers, steps]
    height_px = min(MAX_HEIGHT_PX, max(MIN_HEIGHT_PX, ROW_PX * len(layers)))
    panel = Panel(
        make_axis(np.array(layers), max_cells=len(layers), max_px=height_px, is_upright=True),
        make_axis(
            np.array([step.step for step in steps]),
            max_cells=len(steps),
            max_px=WIDTH_PX,
            is_upright=False,
        ),
    )
    return ReducedPanel(f"{stack} {kind} attention", panel, colour_indices(values, SHARE))
