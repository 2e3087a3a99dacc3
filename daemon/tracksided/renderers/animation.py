"""The map of one head over training: one frame per sampled step."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from tracksided.renderers.apng import animate, read_frame
from tracksided.renderers.thinning import thinned
from tracksided.reports import Picture
from tracksided.stages import RecordedStep, RunData

# The files of `tracksided.renderers.head_map`.
_FRAME_NAME = re.compile(r"(?:encoder|decoder)_layer\d+_(?:self|cross)_attn_head\d+\.png")
MAX_FRAMES = 64  # a quarter of a minute; some hundred kilobytes each at most
MAX_STEPS = 512  # whose folders are looked into


@dataclass(frozen=True, slots=True)
class Animation:
    """Draws ``overview/decoder_layer0_self_attn_head0.png`` and its like."""

    name: str = field(default="animation", init=False)

    def render(self, run: RunData) -> Iterable[Picture]:
        """Yield one animation per head map of which there are two steps or more."""
        holders: dict[str, list[RecordedStep]] = {}
        for step in thinned(run.steps, MAX_STEPS):
            for file_name in run.files(step):
                if _FRAME_NAME.fullmatch(file_name):
                    holders.setdefault(file_name, []).append(step)
        for file_name, steps in sorted(holders.items()):
            contents = (run.read(step, file_name) for step in thinned(steps, MAX_FRAMES))
            frames = [
                frame
                for content in contents
                if content is not None and (frame := read_frame(content)) is not None
            ]
            if len(frames) > 1:
                yield Picture(file_name, None, *animate(frames))
