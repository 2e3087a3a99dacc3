"""Where the loss of a run goes: its trend, and how much of its fall is behind it.

All figures stay the same when the loss, or the distance between samples, is scaled.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tracksided.convergence.robust import mann_kendall, median, spread, theil_sen

TREND_POINTS = 64  # the newest samples that a trend is made of
MIN_POINTS = 10  # fewer say nothing about a direction
CLEAR_Z = 2.5  # 1.2 % of flat windows are beyond it, up or down
END_SHARE = 4  # a quarter at each end of a full window: as steady as the slope over all of it
MIN_END_POINTS = 3  # of a short one: a spike does not move their median far
STAGNANT_CHANGE = 0.01  # of the loss over a full window; less is no progress
REFERENCE_POINTS = 5  # the first samples, whose median stands for where the run began
CLEAR_FALL = 3.0 * math.sqrt(math.pi / 2 / REFERENCE_POINTS)  # 3 standard errors of that median

Direction = Literal["falling", "rising", "flat"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LossTrend:
    """The newest samples as a line."""

    slope: float
    """Per step, by Theil and Sen."""

    level: float
    """Median loss."""

    middle_step: float
    """Median step."""

    relative_change: float
    """From a, the median of the oldest quarter, to b, that of the newest: (b - a) over the larger
    of abs(a) and the median magnitude. -1 is a loss above 0 that is gone."""

    direction: Direction
    """``flat`` where a Mann-Kendall test sees no trend at `CLEAR_Z`, or the ends say otherwise."""

    noise: float
    """Standard deviation around the line, by the median absolute deviation."""

    num_points: int
    since_step: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """Where a run began: medians of its first samples."""

    step: float
    loss: float


def loss_trend(
    steps: Sequence[int], losses: Sequence[float | None], num_points: int = TREND_POINTS
) -> LossTrend | None:
    """Fit the newest samples whose loss is finite.

    None where these are fewer than `MIN_POINTS`.

    Args:
        steps: ascending.
        losses: as many; None, NaN and infinity are left out.
        num_points: how many at most.
    """
    known = _finite(steps, losses)[-num_points:]
    if len(known) < MIN_POINTS:
        return None
    x, y = [float(step) for step, _ in known], [loss for _, loss in known]
    slope = theil_sen(x, y)
    if slope is None:
        return None
    num_ends = max(len(y) // END_SHARE, MIN_END_POINTS)
    oldest, newest = median(y[:num_ends]), median(y[-num_ends:])
    # A loss that ends near 0 falls by many times its median, a loss around 0 by many times an end.
    scale = max(abs(oldest), median([abs(loss) for loss in y])) or abs(newest)
    return LossTrend(
        slope=slope,
        level=median(y),
        middle_step=median(x),
        relative_change=newest / scale - oldest / scale if scale else 0.0,
        direction=_direction(mann_kendall(y), newest - oldest),
        noise=spread([loss - slope * step for step, loss in known]),
        num_points=len(known),
        since_step=known[0][0],
    )


def newer_trend(steps: Sequence[int], losses: Sequence[float | None]) -> LossTrend | None:
    """Fit the newer half of a short run, so that a first steep fall does not count as now.

    From twice `TREND_POINTS` on it is the same as `loss_trend`.
    """
    half = len(_finite(steps, losses)) // 2
    return loss_trend(steps, losses, min(max(half, MIN_POINTS), TREND_POINTS))


def find_reference(steps: Sequence[int], losses: Sequence[float | None]) -> Reference | None:
    """Return where a run began, None before `REFERENCE_POINTS` samples have a finite loss."""
    known = _finite(steps, losses)[:REFERENCE_POINTS]
    if len(known) < REFERENCE_POINTS:
        return None
    return Reference(
        step=median([float(step) for step, _ in known]),
        loss=median([loss for _, loss in known]),
    )


def convergence_score(trend: LossTrend | None, reference: Reference | None) -> float | None:
    """Return how much slower the loss changes now than it fell on average so far, 0 to 1.

    With s the slope of the trend and m = (L0 - L) / (t - t0) the mean fall per step from the
    reference (t0, L0) to the middle of the trend's window (t, L):

        score = clip(1 - abs(s) / m, 0, 1)

    0 for a loss that falls along a straight line or rises as fast as it fell, and where L0 - L is
    not clearly above the noise; 1 for a plateau that is reached. A power law t^-a at T times the
    reference step has 1 - a / (T^a - 1). None where trend or reference are unknown, or the same
    samples.
    """
    if trend is None or reference is None or trend.middle_step <= reference.step:
        return None
    fall = reference.loss - trend.level
    if fall <= CLEAR_FALL * trend.noise:
        return 0.0
    num_steps = trend.middle_step - reference.step
    return min(max(1.0 - abs(trend.slope) * num_steps / fall, 0.0), 1.0)


def is_stagnant(trend: LossTrend | None) -> bool | None:
    """Whether a full window has no falling trend and changes by less than `STAGNANT_CHANGE`.

    None where the window is not full.
    """
    if trend is None or trend.num_points < TREND_POINTS:
        return None
    return trend.direction != "falling" and abs(trend.relative_change) < STAGNANT_CHANGE


def _direction(z: float, change: float) -> Direction:
    if z < -CLEAR_Z and change < 0:
        return "falling"
    return "rising" if z > CLEAR_Z and change > 0 else "flat"


def _finite(steps: Sequence[int], losses: Sequence[float | None]) -> list[tuple[int, float]]:
    return [
        (step, loss)
        for step, loss in zip(steps, losses, strict=True)
        if loss is not None and math.isfinite(loss)
    ]
