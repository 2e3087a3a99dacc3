"""Reads a directory of TensorBoard event files, whoever wrote them."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tracksided.errors import ReportError
from tracksided.progress import names
from tracksided.progress.curve import EMPTY, Kind, Series, Totals, TrainingCurve
from tracksided.progress.directories import written_at
from tracksided.progress.rows import Rows
from tracksided.sinks.event_records import (
    EventDamage,
    EventScalars,
    is_event_file,
    read_scalars,
)

_VALUE = "value"
_WALL_TIME = "wall time"
MAX_NAMED = 12  # tags listed in a message


def event_files(directory: Path) -> tuple[Path, ...]:
    """List the event files in a directory, in the order in which TensorBoard reads them."""
    try:
        return tuple(sorted(path for path in directory.iterdir() if _is_event_file(path)))
    except OSError:
        return ()


def read_event_files(directory: Path, name: str) -> TrainingCurve:
    """Read the scalars of one run.

    A tag whose step goes back was written by a resumed training: its later values count. Where
    the training loss goes back, that holds for all tags. What lies behind a damaged record cannot
    be found; a note says so.

    Raises:
        ReportError: a file cannot be read, or no tag is a training loss.
    """
    files = event_files(directory)
    columns, damages = _columns(files)
    loss = names.find(columns, names.LOSS)
    if loss is None:
        raise ReportError(f"{directory} has no loss: {_listed(tuple(columns))}")
    rollbacks = dict.fromkeys(note for rows in columns.values() for note in rows.notes())
    return TrainingCurve(
        name=name,
        source=directory,
        kind=Kind.EVENTS,
        loss=columns[loss].series(_VALUE),
        learning_rate=_series(columns, names.LEARNING_RATE),
        gradient_norm=_series(columns, names.GRADIENT_NORM),
        clip_rate=_series(columns, names.CLIP_RATE),
        epoch=_series(columns, names.EPOCH),
        seconds_per_step=_seconds_per_step(columns, columns[loss]),
        tokens=_series(columns, names.TOKENS),
        evaluation=_evaluation(columns),
        totals=_totals(columns),
        step=max(rows.last_step or 0 for rows in columns.values()),
        started_at=float(columns[loss].series(_WALL_TIME).values[0]),
        written_at=max((written_at(path) or 0.0 for path in files), default=None),
        notes=(*damages, *rollbacks),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Logged:
    """What a script logged into event files of trackside, besides what every sample has."""

    evaluation: Mapping[str, Series]
    tokens: Series
    totals: Totals
    damages: tuple[str, ...]
    """What cannot be read, in words."""


def read_logged(directory: Path) -> Logged:
    """Read what was logged, each value at its own step; all is empty where there are no files.

    Raises:
        ReportError: a file cannot be read.
    """
    columns, damages = _columns(event_files(directory))
    return Logged(
        evaluation=_evaluation(columns),
        tokens=_series(columns, names.TOKENS),
        totals=_totals(columns),
        damages=damages,
    )


def _columns(files: Sequence[Path]) -> tuple[dict[str, Rows], tuple[str, ...]]:
    """Read all files of a run, tag by tag; return also what is damaged in them."""
    columns: dict[str, Rows] = defaultdict(Rows)
    damages: list[str] = []
    for path in files:
        try:
            _read(path, columns)
        except EventDamage as error:
            damages.append(f"{path.name} {error}; what follows is lost")
        except OSError as error:
            raise ReportError(f"cannot read {path}: {error.strerror}") from error
    known = {tag: rows for tag, rows in columns.items() if rows.names}  # not all forgotten
    return known, tuple(damages)


def _is_event_file(path: Path) -> bool:
    return is_event_file(path.name) and path.is_file()


def _read(path: Path, columns: dict[str, Rows]) -> None:
    for event in read_scalars(path):
        if event.is_restart or _goes_back(event, columns):
            # Events lie in the order of time: all that is there already was written before.
            for rows in columns.values():
                rows.go_back(event.step)
        for tag, value in event.values:
            columns[tag].add(event.step, ((_VALUE, value), (_WALL_TIME, event.wall_time)))


def _goes_back(event: EventScalars, columns: dict[str, Rows]) -> bool:
    """Whether the training itself goes back, and not only a metric that is logged by epochs."""
    losses = [columns[tag] for tag, _ in event.values if tag in columns and _is_loss(tag)]
    return any(rows.last_step is not None and event.step < rows.last_step for rows in losses)


def _is_loss(tag: str) -> bool:
    return tag.lower() in names.LOSS


def _series(columns: dict[str, Rows], wanted: tuple[str, ...]) -> Series:
    tag = names.find(columns, wanted)
    return EMPTY if tag is None else columns[tag].series(_VALUE)


def _seconds_per_step(columns: dict[str, Rows], loss: Rows) -> Series:
    """Take the tag that says so, else the time between two values of the loss."""
    said = _series(columns, names.SECONDS_PER_STEP)
    if len(said):
        return said
    return loss.series(_WALL_TIME).per_step()


def _totals(columns: dict[str, Rows]) -> Totals:
    """Take the totals that the Trainer logs at its end."""
    found = {
        field: _series(columns, (f"train/{key}", f"trainer/{key}")).finite.values
        for field, key in names.TOTALS.items()
    }
    return Totals(**{field: float(values[-1]) for field, values in found.items() if len(values)})


def _evaluation(columns: dict[str, Rows]) -> dict[str, Series]:
    return names.held_out((tag, rows.series(_VALUE)) for tag, rows in columns.items())


def _listed(tags: Sequence[str]) -> str:
    if not tags:
        return "its event files hold no scalars"
    more = f" and {len(tags) - MAX_NAMED} more" if len(tags) > MAX_NAMED else ""
    return f"none of its tags is one of a training loss; found {', '.join(tags[:MAX_NAMED])}{more}"
