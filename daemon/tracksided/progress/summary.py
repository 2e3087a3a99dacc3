"""From a curve to the numbers that say how far a training is and how it goes. Pure."""

from dataclasses import dataclass, field

import numpy as np

from tracksided.convergence.loss import LossTrend, loss_trend
from tracksided.convergence.verdict import Verdict
from tracksided.progress.curve import Series, TrainingCurve
from tracksided.progress.judgement import judge_curve

RECENT = 20  # logged intervals: the speed of now, not of the first steps with their warm-up


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
    loss_trend: LossTrend | None
    """Of the newest values."""

    learning_rate: Statistics | None
    gradient_norm: Statistics | None
    clipped: tuple[int, int] | None
    """How many of the logged gradient norms were above the limit, and of how many."""

    evaluation: dict[str, Statistics]
    verdict: Verdict
    """What the measures of convergence say of it."""

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
        loss_trend=loss_trend(curve.loss.steps.tolist(), curve.loss.values.tolist()),
        verdict=judge_curve(curve),
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
