"""Loss that has risen and stays up."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from tracksided.alerts.finding import Finding
from tracksided.convergence.robust import finite, median, spread
from tracksided.observations import Observation

ADVICE = (
    "The training has come undone. Stop, go back to the checkpoint of the lowest loss, and go on "
    "with a lower learning rate, longer warm-up or clipping. If the data have become harder, or "
    "this loss is no measure of progress (adversarial or reinforcement learning), switch "
    "[alerts.loss_divergence] off."
)
MIN_BLOCKS = 2  # to compare with: the lowest of one block is no level
SAME_RATE = 0.5  # of the learning rate now: below, a lower loss is the schedule's work
COME_BACK = 0.25  # of the rise: a loss that falls again is on its way


@dataclass(frozen=True, slots=True, kw_only=True)
class LossDivergence:
    """The medians of the newest stay_blocks blocks of samples lie far above the lowest one's.

    Far is min_rise times the lowest median, and sigmas spreads: of the lowest block, of a typical
    one, or of what the median changes by from block to block, whichever is the largest. Blocks of
    a learning rate below half of that of now do not count: where it rises again by schedule, so
    does the loss. Nor is anything said while the loss comes back from its highest block.
    """

    name: ClassVar[str] = "loss_divergence"

    enabled: bool = True
    block_steps: int = 16
    stay_blocks: int = 3
    sigmas: float = 6.0
    min_rise: float = 0.3

    def check(self, now: Observation, before: Sequence[Observation]) -> Finding | None:
        """Cut what is remembered into blocks that end with the newest sample."""
        if now.loss is None:
            return None
        known = [e for e in (*before, now) if e.loss is not None and math.isfinite(e.loss)]
        size = self.block_steps
        pieces = [known[end - size : end] for end in range(len(known), size - 1, -size)]
        newest = [_losses(piece) for piece in pieces[: self.stay_blocks]]
        rate = _rate(pieces[0]) if pieces else None
        earlier = [
            _losses(piece) for piece in pieces[self.stay_blocks :] if _is_as_high(piece, rate)
        ]
        if len(earlier) < MIN_BLOCKS:
            return None
        levels = [median(block) for block in earlier]
        bottom = min(levels)
        # A level of 0 without noise has no scale to compare with.
        rise = max(self.sigmas * _noise(earlier, levels), self.min_rise * abs(bottom))
        stays = [median(block) for block in newest]
        level, limit = stays[0], bottom + rise
        if rise == 0 or not min(stays) > limit:
            return None
        peak = max(*stays, *levels[: levels.index(bottom)])
        if level < max(stays) or peak - level > COME_BACK * (peak - bottom):
            return None
        return Finding(
            severity="critical",
            value=level,
            threshold=limit,
            message=f"loss has risen from {bottom:.4g} to {level:.4g} and stays there",
            advice=ADVICE,
        )


def _losses(entries: Sequence[Observation]) -> list[float]:
    return finite(entry.loss for entry in entries)


def _rate(entries: Sequence[Observation]) -> float | None:
    known = finite(entry.learning_rate for entry in entries)
    return median(known) if known else None


def _is_as_high(entries: Sequence[Observation], now: float | None) -> bool:
    """Whether the learning rate of a block was at least about that of now, or is not known."""
    rate = _rate(entries)
    return rate is None or now is None or rate >= SAME_RATE * now


def _noise(blocks: Sequence[Sequence[float]], levels: Sequence[float]) -> float:
    """Return the largest of three spreads; see `LossDivergence`."""
    return max(
        spread(blocks[levels.index(min(levels))]),
        median([spread(block) for block in blocks]),
        spread([b - a for a, b in itertools.pairwise(levels)]),
    )
