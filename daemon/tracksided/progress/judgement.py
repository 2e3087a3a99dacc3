"""What the measures of convergence say of a curve, whoever logged it. Pure."""

import math

from tracksided.convergence.course import Best, Course, Evaluation, Point
from tracksided.convergence.loss import REFERENCE_POINTS, find_reference
from tracksided.convergence.verdict import MEMORY_POINTS, Verdict, judge
from tracksided.progress.curve import Series, TrainingCurve


def judge_curve(curve: TrainingCurve) -> Verdict:
    """Judge a training by its logged losses, as the daemon judges a run by its sampled steps."""
    points = _newest_points(curve)
    if not points:
        return Verdict()
    finite = curve.loss.finite
    course = Course(
        reference=find_reference(
            finite.steps[:REFERENCE_POINTS].tolist(), finite.values[:REFERENCE_POINTS].tolist()
        ),
        best=_best(finite),
        evaluation=_evaluation(curve),
    )
    return judge(points, course, ())


def _newest_points(curve: TrainingCurve) -> list[Point]:
    """Build the points of the newest steps that have a loss or a gradient norm."""
    losses, norms, rates = map(_newest, (curve.loss, curve.gradient_norm, curve.learning_rate))
    clip_rates = _newest(curve.clip_rate)
    steps = sorted(losses.keys() | norms.keys())[-MEMORY_POINTS:]
    return [
        Point(
            step=step,
            timestamp=0.0,  # of epochs only, which are not judged
            epoch=None,
            loss=losses.get(step),
            learning_rate=rates.get(step),
            gradient_norm=norms.get(step),
            clip_rate=clip_rates.get(step, _is_clipped(norms.get(step), curve.max_gradient_norm)),
        )
        for step in steps
    ]


def _newest(series: Series) -> dict[int, float]:
    steps, values = series.steps[-MEMORY_POINTS:], series.values[-MEMORY_POINTS:]
    return dict(zip(steps.tolist(), values.tolist(), strict=True))


def _is_clipped(norm: float | None, limit: float | None) -> float | None:
    """Return 1 or 0 for a step whose gradient was, or was not, above the limit."""
    if norm is None or limit is None or not math.isfinite(norm):
        return None
    return float(norm > limit)


def _best(finite: Series) -> Best | None:
    if not len(finite):
        return None
    place = int(finite.values.argmin())
    return Best(step=int(finite.steps[place]), value=float(finite.values[place]))


def _evaluation(curve: TrainingCurve) -> Evaluation | None:
    name = curve.evaluation_loss_name
    finite = curve.evaluation_loss.finite
    best = _best(finite)
    if name is None or best is None:
        return None
    return Evaluation(
        name=name,
        last=float(finite.values[-1]),
        best=best,
        num_since=int((finite.steps > best.step).sum()),
    )
