"""The captured layers of a stack side by side, one kind of attention per picture."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from tracksided.renderers.maps import (
    ReducedPanel,
    draw,
    heads_shown,
    kind,
    mean_panel,
    reduction,
    side_px,
)
from tracksided.reports import Picture
from tracksided.stages import StepData


@dataclass(frozen=True, slots=True)
class LayerComparison:
    """Draws ``decoder_layer_comparison.png``, ``decoder_cross_layer_comparison.png``..."""

    name: str = field(default="layer_comparison", init=False)

    def render(self, step: StepData) -> Iterable[Picture]:
        """Yield one picture per stack and kind of attention."""
        sizes: dict[tuple[str, str], int] = {}
        for attention in step.maps:
            group = (attention.stack, kind(attention))
            sizes[group] = sizes.get(group, 0) + 1
        groups: dict[tuple[str, str], list[ReducedPanel]] = {group: [] for group in sizes}
        remarks: dict[tuple[str, str], str] = {}
        for attention in step.maps:
            group = (attention.stack, kind(attention))
            caption, side = f"layer {attention.layer}", side_px(sizes[group])
            reduced = mean_panel(caption, attention, step.tokens, side)
            groups[group].append(reduced)
            parts = (heads_shown(attention), *reduction(attention, reduced))
            remarks.setdefault(group, ", ".join(parts))
        for (stack, which), panels in groups.items():
            prefix = stack if which == "self" else f"{stack}_{which}"
            yield draw(
                f"{prefix}_layer_comparison.png",
                f"attention/{prefix}_layer_comparison",
                (f"{stack}, {which} attention by layer, step {step.step}", remarks[stack, which]),
                panels,
            )
