"""A summary in words: sections of labels and texts, the same for terminals, pipes and files."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from tracksided.alerts.document import alert_document
from tracksided.convergence.loss import LossTrend
from tracksided.progress.curve import Kind, TrainingCurve
from tracksided.progress.summary import Statistics, Summary
from tracksided.reports import Alert
from tracksided.sinks.json_file import Json, plain_object

SCHEMA = 1
UNKNOWN = "unknown"
MINUTE_S, HOUR_S, DAY_S = 60, 3600, 86400
MINUTES_IN_HOUR, HOURS_IN_DAY = 60, 24
SMALL = 1e-3  # below it, and from LARGE on, numbers are written with an exponent
LARGE = 1e6

Row = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Section:
    """Rows under one title."""

    title: str
    rows: tuple[Row, ...]


def describe(summary: Summary, now: float) -> tuple[Section, ...]:
    """Put a summary into words; what is unknown says so.

    Args:
        summary: of one curve.
        now: Unix seconds.
    """
    sections = (
        Section("Progress", tuple(_progress(summary, now))),
        Section("Loss", tuple(_loss(summary))),
        Section("Optimizer", tuple(_optimizer(summary))),
        Section("Evaluation", tuple(_evaluation(summary.evaluation))),
        Section("Convergence", tuple(_convergence(summary))),
        Section("Speed", tuple(_speed(summary))),
        Section("Statistics", tuple(_statistics(summary.curve))),
        Section("Alerts", tuple(_alerts(summary.curve.alerts))),
        Section("Notes", tuple(("", note) for note in summary.curve.notes)),
    )
    return tuple(section for section in sections if section.rows)


def document(summary: Summary) -> dict[str, Json]:
    """Return a summary as a JSON object; unknown, NaN and infinity are null."""
    curve = summary.curve
    times = {
        "started_at": curve.started_at,
        "written_at": curve.written_at,
        "checkpoint": curve.checkpoint,
        "checkpoint_at": checkpoint_at(curve),
    }
    loss = None if summary.loss is None else asdict(summary.loss)
    trend = None if summary.loss_trend is None else asdict(summary.loss_trend)
    clipped, norms = (None, None) if summary.clipped is None else summary.clipped
    return plain_object(
        {
            "schema": SCHEMA,
            "name": readable(curve.name),
            "source": readable(curve.source),
            "kind": curve.kind.value,
            "progress": {
                "step": summary.step,
                "max_steps": summary.max_steps,
                "step_percent": summary.step_percent,
                "epoch": summary.epoch,
                "num_epochs": summary.num_epochs,
                "epoch_percent": summary.epoch_percent,
            },
            "loss": loss,
            "loss_trend": trend,
            "learning_rate": None
            if summary.learning_rate is None
            else asdict(summary.learning_rate),
            "gradient_norm": None
            if summary.gradient_norm is None
            else {
                **asdict(summary.gradient_norm),
                "limit": curve.max_gradient_norm,
                "above_limit": clipped,
                "compared": norms,
            },
            "evaluation": {name: asdict(entry) for name, entry in summary.evaluation.items()},
            "convergence": {
                "score": summary.verdict.convergence_score,
                "stagnant": summary.verdict.stagnant,
                "gradient_health": summary.verdict.gradient_health,
                "advice": summary.verdict.advice,
            },
            "speed": asdict(summary.speed),
            "totals": {
                "tokens": summary.tokens,
                "floating_point_operations": curve.totals.floating_point_operations,
                "training_seconds": summary.training_seconds,
                "mean_loss": curve.totals.mean_loss,
            },
            "times": times,
            "statistics": curve.statistics,
            "alerts": None if curve.alerts is None else [alert_document(a) for a in curve.alerts],
            "settings": curve.settings,
            "notes": list(curve.notes),
        }
    )


def checkpoint_at(curve: TrainingCurve) -> float | None:
    """Return when the newest checkpoint was written: a Trainer's state is a part of one."""
    return curve.written_at if curve.kind is Kind.TRAINER_STATE else curve.checkpoint_at


def readable(name: str | Path) -> str:
    """Return a name that can be printed: what is not Unicode text becomes question marks."""
    return str(name).encode("utf-8", "replace").decode("utf-8")


def number(value: float | None) -> str:
    """Write a number with five digits."""
    if value is None:
        return UNKNOWN
    if not math.isfinite(value):
        return {math.inf: "infinite", -math.inf: "-infinite"}.get(value, "NaN")
    if value and not SMALL <= abs(value) < LARGE:
        return f"{value:.3e}"
    return f"{value:.5g}" if abs(value) < LARGE / 10 else f"{value:.0f}"


def at_step(value: float | None, step: int | None) -> str:
    """Write a value with the step at which it stands."""
    return number(value) if step is None else f"{number(value)} at step {step}"


def duration(seconds: float | None) -> str:
    """Write a duration with its two largest units."""
    if seconds is None:
        return UNKNOWN
    if seconds < MINUTE_S:
        return f"{seconds:.3g} s"
    whole = round(seconds)
    if whole < HOUR_S:
        return f"{whole // MINUTE_S} min {whole % MINUTE_S} s"
    minutes = round(seconds / MINUTE_S)
    if seconds < DAY_S:
        return f"{minutes // MINUTES_IN_HOUR} h {minutes % MINUTES_IN_HOUR} min"
    hours = round(seconds / HOUR_S)
    return f"{hours // HOURS_IN_DAY} d {hours % HOURS_IN_DAY} h"


def moment(unix_s: float | None) -> str:
    """Write a time in this machine's zone; one that is in no calendar is unknown."""
    if unix_s is None:
        return UNKNOWN
    try:
        found = datetime.fromtimestamp(unix_s).astimezone()
    except (OverflowError, ValueError, OSError):
        return UNKNOWN
    return found.strftime("%Y-%m-%d %H:%M:%S %Z")


def trend_words(trend: LossTrend | None) -> str:
    """Say where the loss goes."""
    if trend is None:
        return f"{UNKNOWN}, too few values"
    change = f"{trend.direction}, {100 * trend.relative_change:+.1f} %"
    return f"{change} over the newest {trend.num_points} values, since step {trend.since_step}"


def _progress(summary: Summary, now: float) -> Iterable[Row]:
    curve = summary.curve
    yield "step", _share(summary.step, summary.max_steps, summary.step_percent)
    yield "epoch", _share(summary.epoch, summary.num_epochs, summary.epoch_percent)
    written_at = checkpoint_at(curve)
    age = "" if written_at is None else f", {duration(max(0.0, now - written_at))} ago"
    if curve.checkpoint is not None:
        age += f", {curve.checkpoint}"
    yield "checkpoint written", moment(written_at) + age
    if curve.kind is not Kind.TRAINER_STATE:
        yield "last written", moment(curve.written_at)


def _share(done: float | None, whole: float | None, percent: float | None) -> str:
    if done is None and whole is None:
        return UNKNOWN
    share = "" if percent is None else f" ({percent:.1f} %)"
    return f"{_count(done)} of {_count(whole)}{share}"


def _count(value: float | None) -> str:
    return str(value) if isinstance(value, int) else number(value)


def _loss(summary: Summary) -> Iterable[Row]:
    loss = summary.loss
    if loss is None:
        yield "loss", UNKNOWN
        return
    yield "current", at_step(loss.current, loss.current_step)
    yield "mean", f"{number(loss.mean)} of {loss.count - loss.nonfinite} values"
    yield "min", at_step(loss.minimum, loss.minimum_step)
    yield "max", at_step(loss.maximum, loss.maximum_step)
    yield "trend", trend_words(summary.loss_trend)
    if loss.nonfinite:
        yield "NaN or infinite", f"{loss.nonfinite} of {loss.count} values"
    if summary.curve.totals.mean_loss is not None:
        yield "mean, by its trainer", number(summary.curve.totals.mean_loss)


def _optimizer(summary: Summary) -> Iterable[Row]:
    rate, norm = summary.learning_rate, summary.gradient_norm
    if rate is None:
        yield "learning rate", UNKNOWN
    else:
        yield "learning rate", f"{number(rate.current)}, at most {number(rate.maximum)}"
    if norm is None:
        yield "gradient norm", UNKNOWN
        return
    yield (
        "gradient norm",
        (
            f"{number(norm.current)}, median {number(norm.median)}, "
            f"max {at_step(norm.maximum, norm.maximum_step)}"
        ),
    )
    if norm.nonfinite:
        yield "gradient norms", f"NaN or infinite: {norm.nonfinite} of {norm.count}"
    if summary.clipped is not None:
        above, count = summary.clipped
        limit = number(summary.curve.max_gradient_norm)
        yield "above the limit", f"{above} of {count} gradient norms, clipped to {limit}"


def _evaluation(evaluation: Mapping[str, Statistics]) -> Iterable[Row]:
    if not evaluation:
        yield "metrics", "none logged"
    for name, entry in evaluation.items():
        yield (
            readable(name),
            (
                f"{at_step(entry.current, entry.current_step)}, "
                f"min {at_step(entry.minimum, entry.minimum_step)}, "
                f"max {at_step(entry.maximum, entry.maximum_step)}"
            ),
        )


def _convergence(summary: Summary) -> Iterable[Row]:
    verdict = summary.verdict
    scale = "" if verdict.convergence_score is None else ", from 0 (still falling) to 1 (a plateau)"
    yield "score", number(verdict.convergence_score) + scale
    yield "gradients", verdict.gradient_health or UNKNOWN
    for line in verdict.advice:
        yield "advice", line


def _speed(summary: Summary) -> Iterable[Row]:
    speed, totals = summary.speed, summary.curve.totals
    whole = ", over the whole training, as its trainer says"
    how = samples = ""
    if speed.steps_per_second is not None:
        newest = f", median of the newest {speed.num_intervals} intervals"
        how = newest if speed.num_intervals else whole
    if speed.samples_per_second is not None and summary.curve.samples_per_step is None:
        samples = whole
    yield "steps per second", number(speed.steps_per_second) + how
    yield "samples per second", number(speed.samples_per_second) + samples
    yield "tokens per second", number(speed.tokens_per_second)
    yield "time left", _time_left(summary)
    yield "training time", duration(summary.training_seconds)
    yield "tokens", number(summary.tokens)
    yield "floating-point operations", number(totals.floating_point_operations)


def _statistics(curve: TrainingCurve) -> Iterable[Row]:
    for name, value in curve.statistics.items():
        yield readable(name), number(value)


def _alerts(alerts: Sequence[Alert] | None) -> Iterable[Row]:
    """Yield one row for each rule that spoke, with its newest words."""
    if alerts is None:
        return
    if not alerts:
        yield "raised", "none"
    counts = Counter(alert.rule for alert in alerts)
    newest = {alert.rule: alert for alert in alerts}
    for rule, count in counts.most_common():
        last = newest[rule]
        where = "" if last.step is None else f" at step {last.step}"
        yield rule, f"{count}, the last{where}: {readable(last.message)}"


def _time_left(summary: Summary) -> str:
    if summary.speed.remaining_seconds == 0:
        return "none, all steps are done"
    if summary.speed.remaining_seconds is None:
        return UNKNOWN
    return f"{duration(summary.speed.remaining_seconds)} from step {summary.step} on"
