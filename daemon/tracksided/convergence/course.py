"""What a run has been through so far, as values that fit into a line of ``history.jsonl``.

The state after a step depends on the state before it and on the step alone: a daemon that starts
anew takes it from the newest line and goes on.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from tracksided.convergence.loss import Reference

# What trainers call the loss on held-out data, in the order in which it is looked for.
EVALUATION_LOSSES = (
    "eval_loss",
    "eval/loss",
    "val_loss",
    "val/loss",
    "valid_loss",
    "valid/loss",
    "validation_loss",
    "validation/loss",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """What counts of one sampled step. Unknown is None."""

    step: int
    timestamp: float
    epoch: int | None
    loss: float | None
    learning_rate: float | None
    gradient_norm: float | None
    """Before clipping, or what the optimizer saw where that is not known."""

    clip_rate: float | None
    evaluation: tuple[str, float] | None = None
    """Name and value of the held-out loss that was logged with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Best:
    """The lowest value so far."""

    step: int
    value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """The loss on held-out data."""

    name: str
    last: float
    best: Best
    num_since: int
    """Evaluations since the best one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """Mean, lowest and last of the known and finite values of something."""

    count: int = 0
    mean: float | None = None
    minimum: float | None = None
    last: float | None = None

    def add(self, value: float | None) -> "Tally":
        """Return the tally with one more value; unknown or not finite changes nothing."""
        if value is None or not math.isfinite(value):
            return self
        count = self.count + 1
        mean = value if self.mean is None else self.mean + (value - self.mean) / count
        minimum = value if self.minimum is None else min(self.minimum, value)
        return Tally(count=count, mean=mean, minimum=minimum, last=value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Epoch:
    """The sampled steps of one epoch, as far as they have come."""

    epoch: int
    first_step: int
    last_step: int
    started_at: float
    """Unix seconds of its first sampled step."""

    ended_at: float
    num_samples: int
    loss: Tally
    gradient_norm: Tally
    learning_rate: Tally
    clip_rate: Tally


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """The state after a step."""

    reference: Reference | None = None
    best: Best | None = None
    evaluation: Evaluation | None = None
    epoch: Epoch | None = None
    epoch_before: Epoch | None = None


def follow(course: Course, point: Point) -> Course:
    """Return the course after one more step; `Course.reference` is for the caller to set."""
    return replace(
        course,
        best=_best(course.best, point.step, point.loss),
        evaluation=_evaluate(course.evaluation, point),
        epoch=_epoch(course.epoch, point),
        epoch_before=course.epoch if ends_epoch(course, point) else course.epoch_before,
    )


def ends_epoch(course: Course, point: Point) -> bool:
    """Whether this step is of another epoch than those before."""
    known = course.epoch is not None and point.epoch is not None
    return known and course.epoch is not None and point.epoch != course.epoch.epoch


def find_evaluation(logged: Mapping[str, float]) -> tuple[str, float] | None:
    """Return name and value of the held-out loss among what a script logged, None without one."""
    by_name = {name.lower(): name for name in logged}
    found = next((by_name[name] for name in EVALUATION_LOSSES if name in by_name), None)
    return None if found is None else (found, logged[found])


def _best(best: Best | None, step: int, value: float | None) -> Best | None:
    if value is None or not math.isfinite(value) or (best is not None and best.value <= value):
        return best
    return Best(step=step, value=value)


def _evaluate(before: Evaluation | None, point: Point) -> Evaluation | None:
    if point.evaluation is None or not math.isfinite(point.evaluation[1]):
        return before
    name, value = point.evaluation
    if before is None or before.name != name or value < before.best.value:
        best = Best(step=point.step, value=value)
        return Evaluation(name=name, last=value, best=best, num_since=0)
    return replace(before, last=value, num_since=before.num_since + 1)


def _epoch(before: Epoch | None, point: Point) -> Epoch | None:
    if point.epoch is None:
        return before
    if before is None or before.epoch != point.epoch:
        before = Epoch(
            epoch=point.epoch,
            first_step=point.step,
            last_step=point.step,
            started_at=point.timestamp,
            ended_at=point.timestamp,
            num_samples=0,
            loss=Tally(),
            gradient_norm=Tally(),
            learning_rate=Tally(),
            clip_rate=Tally(),
        )
    return replace(
        before,
        last_step=point.step,
        ended_at=point.timestamp,
        num_samples=before.num_samples + 1,
        loss=before.loss.add(point.loss),
        gradient_norm=before.gradient_norm.add(point.gradient_norm),
        learning_rate=before.learning_rate.add(point.learning_rate),
        clip_rate=before.clip_rate.add(point.clip_rate),
    )
