"""What can be said of a run after a step: one value with all measures of this package."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tracksided.convergence.advice import advise
from tracksided.convergence.course import Course, Point, follow
from tracksided.convergence.gradients import RECENT_POINTS, GradientHealth, gradient_health
from tracksided.convergence.loss import (
    TREND_POINTS,
    Direction,
    convergence_score,
    find_reference,
    is_stagnant,
    loss_trend,
    newer_trend,
)
from tracksided.convergence.ranks import num_distinct, step_time_skew, straggler_scores
from tracksided.convergence.robust import finite
from tracksided.observations import RankObservation

MEMORY_POINTS = 256  # what the longest of the measures looks back


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Unknown is None."""

    convergence_score: float | None = None
    loss_trend: float | None = None
    """Relative change over the window; see `LossTrend`."""

    loss_direction: Direction | None = None
    stagnant: bool | None = None
    gradient_health: GradientHealth | None = None
    clip_rate: float | None = None
    """Mean of the newest samples."""

    straggler_score: float | None = None
    """Of the slowest rank."""

    straggler_rank: int | None = None
    step_time_skew: float | None = None
    distinct_weights: int | None = None
    advice: tuple[str, ...] = ()


def judge(points: Sequence[Point], course: Course, ranks: Sequence[RankObservation]) -> Verdict:
    """Judge a run.

    Args:
        points: the newest `MEMORY_POINTS` sampled steps, oldest first, at least one.
        course: the state after them.
        ranks: what each rank said of the newest step.
    """
    newest = points[-2 * TREND_POINTS :]
    steps, losses = [point.step for point in newest], [point.loss for point in newest]
    trend = loss_trend(steps, losses)
    score = convergence_score(newer_trend(steps, losses), course.reference)
    health = gradient_health([point.gradient_norm for point in points])
    clip_rate = _mean([point.clip_rate for point in points[-RECENT_POINTS:]])
    seconds = {
        rank.rank: rank.step_seconds
        for rank in ranks
        if rank.step_seconds is not None and rank.step_seconds > 0
    }
    scores = straggler_scores(seconds)
    slowest = min(scores, key=lambda rank: scores[rank], default=None)
    return Verdict(
        convergence_score=score,
        loss_trend=None if trend is None else trend.relative_change,
        loss_direction=None if trend is None else trend.direction,
        stagnant=is_stagnant(trend),
        gradient_health=health,
        clip_rate=clip_rate,
        straggler_score=None if slowest is None else scores[slowest],
        straggler_rank=slowest,
        step_time_skew=step_time_skew(seconds),
        distinct_weights=num_distinct(rank.weight_checksum for rank in ranks),
        advice=advise(
            trend=trend,
            score=score,
            health=health,
            clip_rate=clip_rate,
            learning_rate_share=_learning_rate_share(points),
            best=course.best,
            evaluation=course.evaluation,
        ),
    )


def move_on(course: Course, points: Sequence[Point]) -> Course:
    """Return the course after the newest of these points.

    Args:
        course: the state before it.
        points: the newest sampled steps, oldest first, at least one.
    """
    course = follow(course, points[-1])
    if course.reference is not None:
        return course
    reference = find_reference([point.step for point in points], [point.loss for point in points])
    return replace(course, reference=reference)


def _learning_rate_share(points: Sequence[Point]) -> float | None:
    rates = finite([point.learning_rate for point in points])
    newest = points[-1].learning_rate
    if newest is None or not rates or max(rates) <= 0:
        return None
    return newest / max(rates)


def _mean(values: Sequence[float | None]) -> float | None:
    known = finite(values)
    return sum(known) / len(known) if known else None
