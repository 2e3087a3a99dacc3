"""From a curve to the numbers that say how far a training is and how it goes. Pure."""

import math
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from tracksided.progress.curve import Series, TrainingCurve

RECENT = 20  # logged intervals: the speed of now, not of the first steps with their warm-up
MIN_TREND_POINTS = 8  # fewer say nothing about a direction
# Standard errors that a slope must differ from 0 by; the values of neighbouring steps are not
# independent, which makes the error look smaller than it is: hence not 2.
CLEAR_ERRORS = 3.0
PER_STEPS = 1000

Direction = Literal["falling", "rising", "flat"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """Of one series. NaN and infinity count in ``nonfinite`` and `current`, nowhere else."""

    count: int
    nonfinite: int
    current: float
    current_step: int
    first: float | None
    """None, as all below, where no value is finite."""

    minimum: float | None
    minimum_step: int | None
    maximum: float | None
    maximum_step: int | None
    mean: float | None
    median: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Trend:
    """Where the newer half of a series goes, by least squares."""

    direction: Direction
    """``flat`` where the slope is not clearly different from 0."""

    slope: float
    """Per 1000 steps."""

    points: int
    since_step: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """Unknown is None."""

    steps_per_second: float | None = None
    samples_per_second: float | None = None
    tokens_per_second: float | None = None
    num_intervals: int = 0
    """Newest intervals between logged steps that it is of; 0: of the whole training, as its
    trainer says."""

    remaining_seconds: float | None = None
    """Until all steps are done, at this speed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """All numbers of one curve; unknown is None."""

    curve: TrainingCurve = field(repr=False)
    step: int | None
    max_steps: int | None
    step_percent: float | None
    epoch: float | None
    num_epochs: float | None
    epoch_percent: float | None
    loss: Statistics | None
    loss_trend: Trend | None
    learning_rate: Statistics | None
    gradient_norm: Statistics | None
    clipped: tuple[int, int] | None
    """How many of the logged gradient norms were above the limit, and of how many."""

    evaluation: dict[str, Statistics]
    speed: Speed
    tokens: float | None
    training_seconds: float | None


def summarise(curve: TrainingCurve) -> Summary:
    """Compute all that is shown of a curve."""
    epoch = _last(curve.epoch)
    return Summary(
        curve=curve,
        step=curve.step,
        max_steps=curve.max_steps,
        step_percent=_percent(curve.step, curve.max_steps),
        epoch=epoch,
        num_epochs=curve.num_epochs,
        epoch_percent=_percent(epoch, curve.num_epochs),
        loss=statistics(curve.loss),
        loss_trend=trend(curve.loss),
        learning_rate=statistics(curve.learning_rate),
        gradient_norm=statistics(curve.gradient_norm),
        clipped=_clipped(curve),
        evaluation={
            name: found
            for name, series in sorted(curve.evaluation.items())
            if (found := statistics(series)) is not None
        },
        speed=_speed(curve),
        tokens=curve.totals.tokens or _last(curve.tokens),
        training_seconds=curve.totals.training_seconds,
    )


def statistics(series: Series) -> Statistics | None:
    """Describe a series; None where it is empty."""
    if not len(series):
        return None
    finite = series.finite
    has_any = len(finite) > 0
    lowest = int(finite.values.argmin()) if has_any else 0
    highest = int(finite.values.argmax()) if has_any else 0
    return Statistics(
        count=len(series),
        nonfinite=len(series) - len(finite),
        current=float(series.values[-1]),
        current_step=int(series.steps[-1]),
        first=float(finite.values[0]) if has_any else None,
        minimum=float(finite.values[lowest]) if has_any else None,
        minimum_step=int(finite.steps[lowest]) if has_any else None,
        maximum=float(finite.values[highest]) if has_any else None,
        maximum_step=int(finite.steps[highest]) if has_any else None,
        mean=float(finite.values.mean()) if has_any else None,
        median=float(np.median(finite.values)) if has_any else None,
    )


def trend(series: Series) -> Trend | None:
    """Fit a line to the newer half of the finite values; None where there are too few.

    The slope b of values y over steps x has the standard error
    s_b = sqrt(sum of squared residuals / (n - 2) / sum (x - mean x)^2); it is clear where
    |b| > `CLEAR_ERRORS` * s_b.

    Source: ordinary least squares, Draper and Smith, Applied Regression Analysis, section 1.4.
    """
    finite = series.finite
    newer = max(MIN_TREND_POINTS, math.ceil(len(finite) / 2))
    if len(finite) < MIN_TREND_POINTS:
        return None
    steps = finite.steps[-newer:].astype(np.float64)
    values = finite.values[-newer:]
    centred = steps - steps.mean()
    spread = float(centred @ centred)
    slope = float(centred @ (values - values.mean())) / spread
    residuals = values - values.mean() - slope * centred
    error = math.sqrt(float(residuals @ residuals) / (len(values) - 2) / spread)
    direction: Direction = "flat"
    if abs(slope) > CLEAR_ERRORS * error:
        direction = "falling" if slope < 0 else "rising"
    return Trend(
        direction=direction,
        slope=slope * PER_STEPS,
        points=len(values),
        since_step=int(steps[0]),
    )


def _last(series: Series) -> float | None:
    finite = series.finite
    return float(finite.values[-1]) if len(finite) else None


def _percent(done: float | None, whole: float | None) -> float | None:
    return None if done is None or not whole else 100 * done / whole


def _clipped(curve: TrainingCurve) -> tuple[int, int] | None:
    norms = curve.gradient_norm.finite
    if curve.max_gradient_norm is None or not len(norms):
        return None
    return int((norms.values > curve.max_gradient_norm).sum()), len(norms)


def _speed(curve: TrainingCurve) -> Speed:
    recent = curve.seconds_per_step.finite.values[-RECENT:]
    seconds = float(np.median(recent)) if len(recent) else None
    steps_per_second = 1 / seconds if seconds else curve.totals.steps_per_second
    samples = curve.totals.samples_per_second
    if steps_per_second is not None and curve.samples_per_step is not None:
        samples = steps_per_second * curve.samples_per_step
    tokens, remaining = _tokens_per_step(curve.tokens), _remaining_steps(curve)
    if steps_per_second is None:
        return Speed(samples_per_second=samples)
    return Speed(
        steps_per_second=steps_per_second,
        samples_per_second=samples,
        tokens_per_second=None if tokens is None else tokens * steps_per_second,
        num_intervals=len(recent) if seconds else 0,
        remaining_seconds=None if remaining is None else remaining / steps_per_second,
    )


def _tokens_per_step(tokens: Series) -> float | None:
    recent = Series(tokens.steps[-RECENT:], tokens.values[-RECENT:]).finite
    if len(recent) <= 1:
        return None
    gained = float(recent.values[-1] - recent.values[0])
    return gained / float(recent.steps[-1] - recent.steps[0]) if gained > 0 else None


def _remaining_steps(curve: TrainingCurve) -> float | None:
    """Return the steps that are left, from the number of steps or else of epochs."""
    if curve.step is None:
        return None
    if curve.max_steps is not None:
        return max(0, curve.max_steps - curve.step)
    epoch = _last(curve.epoch)
    if not epoch or curve.num_epochs is None:
        return None
    return max(0.0, curve.step * (curve.num_epochs / epoch - 1))
