"""Whether the gradients of a run are well, and what to try where they are not."""

import itertools
import math
from collections.abc import Sequence
from typing import Literal

from tracksided.convergence.robust import finite, median

BASE_POINTS = 256  # the newest samples whose median is what is usual
MIN_POINTS = 10  # fewer have no usual norm among them
RECENT_POINTS = 10
EXPLODING_RATIO = 10.0  # times the usual norm: once is enough
RAISED_RATIO = 5.0  # times the usual norm: this often among the recent ones
MIN_RAISED = 3
SWING_RATIO = 10.0  # from one sample to the next, up or down
SWING_POINTS = 20
MIN_SWINGS = 5  # one outlier is two swings
VANISHING_SHARE = 0.01  # of the usual norm
TINY_NORM = 1e-7  # nothing is learnt from it, whatever was usual

GradientHealth = Literal["healthy", "exploding", "vanishing", "volatile"]

ADVICE: dict[GradientHealth, str] = {
    "exploding": "lower the learning rate or lengthen its warm-up, clip gradients to a norm that "
    "most steps stay below, and look at the batch of the step at which it began",
    "vanishing": "look for saturated or dead activations, a detached part of the graph or a loss "
    "scale that is too low; normalisation, residual connections and another initialisation help",
    "volatile": "lower the learning rate, raise the batch size or accumulate more micro-batches, "
    "and clip gradients",
}
HIGH_CLIP_RATE = 0.5  # clipping is meant for the exception
CLIP_ADVICE = (
    "more than half of the steps are clipped: the clip norm sets the step size now; raise it, or "
    "lower the learning rate"
)


def gradient_health(norms: Sequence[float | None]) -> GradientHealth | None:
    """Judge the newest gradient norms by what is usual in the run; None where too few are known.

    =========== ===========================================================================
    verdict     where, with m the median of the newest 256 norms
    =========== ===========================================================================
    exploding   the newest is not finite; or, with m above 0, it is above 10 m or 3 of the
                newest 10 are above 5 m
    volatile    5 of the newest 20 changes from sample to sample are tenfold, up or down
    vanishing   the median of the newest 10 is below 0.01 m, or below 1e-7
    healthy     none of these
    =========== ===========================================================================

    Sources: exploding and vanishing gradients, Pascanu et al. 2012, arXiv:1211.5063; 1e-7, the
    vanishing-gradient rule of Amazon SageMaker Debugger.

    Args:
        norms: before clipping, in order of time; None is unknown.
    """
    known = [norm for norm in norms if norm is not None][-BASE_POINTS:]
    sound = finite(known)
    if known and not math.isfinite(known[-1]):
        return "exploding"
    if len(sound) < MIN_POINTS:
        return None
    usual = median(sound)
    recent = sound[-RECENT_POINTS:]
    num_raised = sum(norm > RAISED_RATIO * usual for norm in recent)
    is_raised = known[-1] > EXPLODING_RATIO * usual or num_raised >= MIN_RAISED
    if usual > 0 and is_raised:  # where a hinge loss is mostly 0, no norm is usual
        return "exploding"
    if num_swings(sound[-SWING_POINTS - 1 :]) >= MIN_SWINGS:
        return "volatile"
    if median(recent) < max(VANISHING_SHARE * usual, TINY_NORM):
        return "vanishing"
    return "healthy"


def num_swings(norms: Sequence[float], ratio: float = SWING_RATIO) -> int:
    """Count changes by this ratio or more between neighbours; 0 to anything else is one."""
    return sum(
        max(pair) >= ratio * min(pair) and max(pair) > 0 for pair in itertools.pairwise(norms)
    )
