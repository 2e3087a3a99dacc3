"""Loss that has risen and stays up."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from tracksided.alerts.finding import Finding
from tracksided.convergence.robust import finite, median, spread
from tracksided.observations import Observation

ADVICE = (
    "The training has come undone. Stop, go back to the checkpoint of the lowest loss, and go on "
    "with a lower learning rate, longer warm-up or clipping."
)
MIN_BLOCKS = 2  # before the newest: the lowest of one block is no level


@dataclass(frozen=True, slots=True, kw_only=True)
class LossDivergence:
    """The median of the newest block of samples lies far above the lowest block's.

    Far is min_rise times the lowest median, and sigmas spreads: of the lowest block, of a typical
    one, or of what the median changes by from block to block, whichever is the largest.
    """

    name: ClassVar[str] = "loss_divergence"

    enabled: bool = True
    block_steps: int = 16
    sigmas: float = 6.0
    min_rise: float = 0.3

    def check(self, now: Observation, before: Sequence[Observation]) -> Finding | None:
        """Cut what is remembered into blocks that end with the newest sample."""
        losses = finite(entry.loss for entry in (*before, now))
        size = self.block_steps
        if now.loss is None or len(losses) < (MIN_BLOCKS + 1) * size:
            return None
        blocks = [losses[end - size : end] for end in range(len(losses), size - 1, -size)]
        level = median(blocks[0])
        earlier = blocks[1:]
        levels = [median(block) for block in earlier]
        bottom = min(levels)
        if not level > bottom + self.min_rise * abs(bottom):
            return None
        noise = max(
            spread(earlier[levels.index(bottom)]),
            median([spread(block) for block in earlier]),
            spread([b - a for a, b in itertools.pairwise(levels)]),
        )
        limit = bottom + max(self.sigmas * noise, self.min_rise * abs(bottom))
        # A level of 0 without noise has no scale to compare with.
        if limit == bottom or not level > limit:
            return None
        return Finding(
            severity="critical",
            value=level,
            threshold=limit,
            message=f"loss has risen from {bottom:.4g} to {level:.4g} and stays there",
            advice=ADVICE,
        )
