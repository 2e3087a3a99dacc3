"""All kept heads of an attention call side by side."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from tracksided.attention import map_name
from tracksided.renderers.maps import (
    draw,
    headline,
    kind,
    map_panel,
    reduce_panel,
    reduction,
    side_px,
)
from tracksided.reports import Picture
from tracksided.stages import StepData


@dataclass(frozen=True, slots=True)
class MultiHead:
    """Draws ``decoder_layer0_self_attn_heads.png`` and its like."""

    name: str = field(default="multi_head", init=False)

    def render(self, step: StepData) -> Iterable[Picture]:
        """Yield one grid per map."""
        for attention in step.maps:
            side = side_px(len(attention.heads))
            panels = [
                reduce_panel(map_panel(f"head {head}", attention, step.tokens, weights), side)
                for head, weights in zip(attention.heads, attention.weights, strict=True)
            ]
            shown = f"{len(attention.heads)} of {attention.num_heads} heads"
            remarks = ", ".join((shown, *reduction(attention, panels[0])))
            yield draw(
                f"{map_name(attention)}_heads.png",
                f"attention/{attention.stack}_layer{attention.layer}_{kind(attention)}_heads",
                (headline(attention, step.step), attention.module, remarks),
                panels,
            )
