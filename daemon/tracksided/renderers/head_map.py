"""One head of each attention call: in every step the same, to be watched over training."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from tracksided.attention import map_name
from tracksided.renderers.maps import draw, headline, map_panel, reduce_panel, reduction, side_px
from tracksided.reports import Picture
from tracksided.stages import StepData


@dataclass(frozen=True, slots=True)
class HeadMap:
    """Draws ``decoder_layer0_self_attn_head0.png`` and its like: the first of the kept heads."""

    name: str = field(default="animation", init=False)

    def render(self, step: StepData) -> Iterable[Picture]:
        """Yield one picture per map; the files are the frames of the animation."""
        for attention in step.maps:
            source = map_panel("", attention, step.tokens, attention.weights[0])
            reduced = reduce_panel(source, side_px(1))
            head = attention.heads[0]
            shown = f"head {head} of {attention.num_heads}"
            yield draw(
                f"{map_name(attention)}_head{head}.png",
                None,
                (
                    headline(attention, step.step),
                    attention.module,
                    ", ".join((shown, *reduction(attention, reduced))),
                ),
                (reduced,),
            )
