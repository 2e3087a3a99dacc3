"""One heat map per attention call: the mean over its kept heads."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from tracksided.attention import map_name
from tracksided.renderers.maps import (
    draw,
    headline,
    heads_shown,
    kind,
    mean_panel,
    reduction,
    side_px,
)
from tracksided.reports import Picture
from tracksided.stages import StepData


@dataclass(frozen=True, slots=True)
class Heatmap:
    """Draws ``decoder_layer0_self_attn.png`` and its like."""

    name: str = field(default="heatmap", init=False)

    def render(self, step: StepData) -> Iterable[Picture]:
        """Yield one picture per map."""
        for attention in step.maps:
            reduced = mean_panel("", attention, step.tokens, side_px(1))
            remarks = ", ".join((heads_shown(attention), *reduction(attention, reduced)))
            yield draw(
                f"{map_name(attention)}.png",
                f"attention/{attention.stack}_layer{attention.layer}_{kind(attention)}",
                (headline(attention, step.step), attention.module, remarks),
                (reduced,),
            )
