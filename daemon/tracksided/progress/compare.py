"""Several curves side by side: how they ended, and in which settings they differ. Pure."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from tracksided.errors import ReportError
from tracksided.progress.summary import Statistics, Summary
from tracksided.progress.wording import UNKNOWN, document, duration, number, readable, trend_words
from tracksided.sinks.json_file import Json

SCHEMA = 1
MIN_CURVES = 2
SETTINGS = "Settings"
MAX_CELL_LETTERS = 48
# Differ between any two runs and say nothing of how they train.
_INCIDENTAL = ("output_dir", "logging_dir", "run_name", "resume_from_checkpoint", "hub_model_id")


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: a text for each curve."""

    section: str
    label: str
    cells: tuple[str, ...]

    @property
    def differs(self) -> bool:
        """Whether two curves of which it is known have not the same."""
        return len(set(self.cells) - {UNKNOWN}) > 1


@dataclass(frozen=True, slots=True)
class Comparison:
    """Curves side by side."""

    names: tuple[str, ...]
    """Unique."""

    rows: tuple[Row, ...]
    """Finals and statistics of all, then the settings in which they differ."""

    num_same: int
    """Settings that are alike wherever they are known; not among the rows, as are those below."""

    num_lonely: int
    """Settings that are known of one curve only."""


def compare(summaries: Sequence[Summary]) -> Comparison:
    """Put summaries side by side.

    Raises:
        ReportError: there are fewer than two.
    """
    if len(summaries) < MIN_CURVES:
        raise ReportError(f"{len(summaries)} to compare, expected two or more directories")
    rows = list(_finals(summaries))
    rows += _table("Statistics", [_statistics(summary) for summary in summaries])
    settings = list(_table(SETTINGS, [_settings(summary) for summary in summaries]))
    rows += (row for row in settings if row.differs)
    known = [len(summaries) - row.cells.count(UNKNOWN) for row in settings]
    return Comparison(
        names=_unique_names(summaries),
        rows=tuple(rows),
        num_same=sum(
            count > 1 and not row.differs for row, count in zip(settings, known, strict=True)
        ),
        num_lonely=known.count(1),
    )


def comparison_document(comparison: Comparison, summaries: Sequence[Summary]) -> dict[str, Json]:
    """Return a comparison as a JSON object: all summaries, and the settings that differ."""
    names = comparison.names
    differing = [row.label for row in comparison.rows if row.section == SETTINGS]
    return {
        "schema": SCHEMA,
        "runs": [
            {**document(summary), "name": name}
            for name, summary in zip(names, summaries, strict=True)
        ],
        "different_settings": {
            key: {
                name: summary.curve.settings.get(key)
                for name, summary in zip(names, summaries, strict=True)
            }
            for key in differing
        },
        "same_settings": comparison.num_same,
        "settings_of_one_run_only": comparison.num_lonely,
    }


def _unique_names(summaries: Sequence[Summary]) -> tuple[str, ...]:
    """Return the names of curves; those that two share become their paths."""
    names = [readable(summary.curve.name) for summary in summaries]
    return tuple(
        name if names.count(name) == 1 else readable(summary.curve.source)
        for name, summary in zip(names, summaries, strict=True)
    )


def _finals(summaries: Sequence[Summary]) -> Iterable[Row]:
    """Yield the rows in which all curves can be compared."""
    columns: tuple[tuple[str, str, Callable[[Summary], str]], ...] = (
        ("Progress", "step", lambda s: _count(s.step)),
        ("Progress", "epoch", lambda s: number(s.epoch)),
        ("Progress", "of all steps", lambda s: _percent(s.step_percent)),
        ("Loss", "current", lambda s: _of(s.loss, "current")),
        ("Loss", "mean", lambda s: _of(s.loss, "mean")),
        ("Loss", "min", lambda s: _of(s.loss, "minimum")),
        ("Loss", "at step", lambda s: _count(None if s.loss is None else s.loss.minimum_step)),
        ("Loss", "trend", lambda s: trend_words(s.loss_trend).partition(" over")[0]),
        ("Loss", "convergence score", lambda s: number(s.verdict.convergence_score)),
        ("Loss", "NaN or infinite", lambda s: _count(None if s.loss is None else s.loss.nonfinite)),
        ("Optimizer", "learning rate", lambda s: _of(s.learning_rate, "current")),
        ("Optimizer", "largest learning rate", lambda s: _of(s.learning_rate, "maximum")),
        ("Optimizer", "median gradient norm", lambda s: _of(s.gradient_norm, "median")),
        ("Optimizer", "largest gradient norm", lambda s: _of(s.gradient_norm, "maximum")),
        ("Speed", "steps per second", lambda s: number(s.speed.steps_per_second)),
        ("Speed", "training time", lambda s: duration(s.training_seconds)),
        ("Speed", "tokens", lambda s: number(s.tokens)),
    )
    for section, label, cell in columns:
        yield Row(section, label, tuple(cell(summary) for summary in summaries))
    metrics = dict.fromkeys(name for summary in summaries for name in summary.evaluation)
    for name in metrics:
        entries = [summary.evaluation.get(name) for summary in summaries]
        label = readable(name)
        yield Row("Evaluation", label, tuple(_of(entry, "current") for entry in entries))
        yield Row("Evaluation", f"{label}, min", tuple(_of(entry, "minimum") for entry in entries))


def _table(section: str, columns: Sequence[Mapping[str, str]]) -> Iterable[Row]:
    for key in dict.fromkeys(key for column in columns for key in column):
        cells = tuple(_shortened(column.get(key, UNKNOWN)) for column in columns)
        yield Row(section, readable(key), cells)


def _shortened(text: str) -> str:
    plain = readable(text)
    is_long = len(plain) > MAX_CELL_LETTERS
    return f"{plain[: MAX_CELL_LETTERS - 3]}..." if is_long else plain


def _statistics(summary: Summary) -> dict[str, str]:
    curve = summary.curve
    alerts = {} if curve.alerts is None else {"alerts": str(len(curve.alerts))}
    return {**{key: number(value) for key, value in curve.statistics.items()}, **alerts}


def _settings(summary: Summary) -> dict[str, str]:
    return {
        key: value if isinstance(value, str) else json.dumps(value)
        for key, value in summary.curve.settings.items()
        if key not in _INCIDENTAL
    }


def _of(entry: Statistics | None, field: str) -> str:
    return UNKNOWN if entry is None else number(getattr(entry, field))


def _count(value: int | None) -> str:
    return UNKNOWN if value is None else str(value)


def _percent(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.1f} %"
