"""What is said of an epoch and of a run as a whole, once, at its end."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trackside.wire.records import Close
from tracksided.assemble import logged_scalars, logged_texts
from tracksided.convergence.course import Course, Epoch
from tracksided.convergence.verdict import Verdict
from tracksided.reports import Scalar, Text


@dataclass(frozen=True, slots=True, kw_only=True)
class Finale:
    """How a run ended."""

    totals: Mapping[str, Any]
    """``training_statistics.json``."""

    close: Close | None
    """How the lowest rank ended; None where it was killed."""

    course: Course
    verdict: Verdict

    @property
    def step(self) -> int:
        """The last one that is known: a run that was resumed has seen fewer than it counts."""
        return max(int(self.totals["steps"] or 0), int(self.totals["final"]["step"]))


def epoch_scalars(epoch: Epoch) -> tuple[Scalar, ...]:
    """Return the ``Epoch/*`` tags, at the last sampled step of the epoch."""
    values = {
        "Epoch/Loss": epoch.loss.mean,
        "Epoch/Loss_Min": epoch.loss.minimum,
        "Epoch/Gradient_Norm": epoch.gradient_norm.mean,
        "Epoch/Clip_Rate": epoch.clip_rate.mean,
        "Epoch/Learning_Rate": epoch.learning_rate.last,
        "Epoch/Seconds": epoch.ended_at - epoch.started_at,
        "Epoch/Sampled_Steps": epoch.num_samples,
    }
    return tuple(
        Scalar(tag, float(value), epoch.last_step)
        for tag, value in values.items()
        if value is not None
    )


def epoch_text(epoch: Epoch, before: Epoch | None) -> Text:
    """Return ``Training/Epoch_Summary``.

    Args:
        epoch: that has ended.
        before: the epoch before it, None where there was none.
    """
    change = None
    if before is not None and before.loss.mean and epoch.loss.mean is not None:
        change = f"{epoch.loss.mean / before.loss.mean - 1:+.1%}"
    table = _table(
        {
            "Epoch": epoch.epoch,
            "Sampled steps": f"{epoch.num_samples}, {epoch.first_step} to {epoch.last_step}",
            "Mean loss": _number(epoch.loss.mean),
            "Against the epoch before": change,
            "Lowest, last loss": f"{_number(epoch.loss.minimum)}, {_number(epoch.loss.last)}",
            "Mean gradient norm": _number(epoch.gradient_norm.mean),
            "Mean clip rate": _percent(epoch.clip_rate.mean),
            "Learning rate at its end": _number(epoch.learning_rate.last),
            "Seconds": f"{epoch.ended_at - epoch.started_at:.1f}",
        }
    )
    return Text("Training/Epoch_Summary", table, epoch.last_step)


def final_scalars(finale: Finale) -> tuple[Scalar, ...]:
    """Return the ``Final/*`` tags, those of the last epoch, and what was logged since."""
    totals, course = finale.totals, finale.course
    values = {
        "Final/Loss": totals["final"]["loss"],
        "Final/Best_Loss": None if course.best is None else course.best.value,
        "Final/Convergence_Score": finale.verdict.convergence_score,
        "Final/Steps": totals["steps"],
        "Final/Sampled_Steps": totals["processed"],
        "Final/Dropped": sum(totals["dropped"].values()),
    }
    finals = (
        Scalar(tag, float(value), finale.step) for tag, value in values.items() if value is not None
    )
    logged = () if finale.close is None else tuple(logged_scalars(finale.close.scalars))
    epoch = () if course.epoch is None else epoch_scalars(course.epoch)
    return (*logged, *epoch, *finals)


def final_texts(finale: Finale) -> tuple[Text, ...]:
    """Return ``Training/Final_Summary``, that of the last epoch, and what was logged since."""
    totals, course, verdict = finale.totals, finale.course, finale.verdict
    best, evaluation = course.best, course.evaluation
    table = _table(
        {
            "Run": totals["run"],
            "State": totals["state"],
            "Steps": totals["steps"],
            "Sampled steps written": totals["processed"],
            "Dropped samples": sum(totals["dropped"].values()),
            "Final loss": totals["final"]["loss"],
            "Lowest sampled loss": None
            if best is None
            else f"{best.value:.6g} at step {best.step}",
            "Lowest held-out loss": None
            if evaluation is None
            else f"{evaluation.best.value:.6g} at step {evaluation.best.step} ({evaluation.name})",
            "Convergence score": _number(verdict.convergence_score),
            "Loss over the newest samples": None
            if verdict.loss_trend is None
            else f"{verdict.loss_trend:+.1%}, {verdict.loss_direction}",
            "Gradients": verdict.gradient_health,
        }
    )
    advice = "".join(f"\n- {line}" for line in verdict.advice)
    summary = Text("Training/Final_Summary", f"{table}\n{advice}" if advice else table, finale.step)
    logged = () if finale.close is None else tuple(logged_texts(finale.close.texts))
    epoch = () if course.epoch is None else (epoch_text(course.epoch, course.epoch_before),)
    return (*logged, *epoch, summary)


def _table(rows: Mapping[str, object]) -> str:
    lines = ["| | |", "|---|---|"]
    lines += [f"| {name} | {'unknown' if cell is None else cell} |" for name, cell in rows.items()]
    return "\n".join(lines)


def _number(value: float | None) -> str | None:
    return None if value is None else f"{value:.6g}"


def _percent(value: float | None) -> str | None:
    return None if value is None else f"{value:.1%}"
