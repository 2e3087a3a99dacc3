"""Reads ``trainer_state.json`` of Hugging Face's Trainer."""

import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tracksided.checkpoints.naming import is_checkpoint_directory
from tracksided.errors import ReportError
from tracksided.progress import fields, names
from tracksided.progress.curve import EMPTY, Kind, Series, Totals, TrainingCurve
from tracksided.progress.directories import checkpoints_in, written_at
from tracksided.progress.rows import Rows
from tracksided.progress.training_args import read_training_args
from tracksided.sinks.json_file import Json, is_shallow, parse_json, plain_object

FILE_NAME = "trainer_state.json"
_ROWS = "log_history"
# Its settings, beside what it logs and where it is.
_SETTINGS = ("train_batch_size", "logging_steps", "eval_steps", "save_steps")
_RUNTIME = "train_runtime"
MAX_STATE_BYTES = 512 << 20  # three million logged steps
MIN_INTERVAL_S = 1.0  # between checkpoints; copies of them have nearly the same time
_BY_FILE_TIMES = (
    "steps per second come from the times of the checkpoints' files, with all that was done "
    "between them; they are wrong where checkpoints were copied"
)


def read_trainer_state(path: Path, name: str) -> TrainingCurve:
    """Read one file, and ``training_args.bin`` beside it where there is one.

    Rows of training and evaluation are mixed, values may be bare NaN, and copies inside
    ``checkpoint-N/`` lack the last row with the totals.

    Raises:
        ReportError: it cannot be read, is no JSON, or lacks ``log_history`` or ``global_step``.
    """
    state = _load(path)
    global_step = _required(state, "global_step", path)
    step = fields.step(global_step)
    if step is None:
        raise ReportError(f"{path}: 'global_step' is {reprlib.repr(global_step)}, expected a step")
    history = _required(state, _ROWS, path)
    if not isinstance(history, list):
        raise ReportError(f"{path}: {_ROWS!r} is a {type(history).__name__}, expected a list")
    rows, skipped = _rows(history)
    arguments, problem = read_training_args(path.parent)
    notes = [*rows.notes()]
    if skipped:
        notes.append(f"{skipped} rows of {_ROWS} without a step are left out")
    if problem is not None:
        notes.append(problem)
    seconds_per_step, totals = rows.series(_RUNTIME).per_step(), _totals(state, history)
    if not len(seconds_per_step) and totals.steps_per_second is None:
        seconds_per_step = _seconds_between_checkpoints(path.parent, step)
        if len(seconds_per_step):
            notes.append(_BY_FILE_TIMES)
    return TrainingCurve(
        name=name,
        source=path,
        kind=Kind.TRAINER_STATE,
        loss=rows.series("loss"),
        learning_rate=rows.series("learning_rate"),
        gradient_norm=rows.series("grad_norm"),
        epoch=rows.series("epoch"),
        seconds_per_step=seconds_per_step,
        tokens=rows.series("num_input_tokens_seen"),
        evaluation=names.held_out((name, rows.series(name)) for name in rows.names),
        step=step,
        max_steps=fields.count(state.get("max_steps")),
        num_epochs=fields.positive(state.get("num_train_epochs")),
        max_gradient_norm=fields.positive(arguments.get("max_grad_norm")),
        totals=totals,
        written_at=written_at(path),
        settings={**_settings(state), **arguments},
        notes=tuple(notes),
    )


def _load(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_STATE_BYTES + 1)
        if len(content) > MAX_STATE_BYTES:
            raise ReportError(
                f"{path} has more than {MAX_STATE_BYTES >> 20} MiB, which no training logs"
            )
        state = parse_json(content)
    except OSError as error:
        raise ReportError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise ReportError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(state, dict):
        raise ReportError(f"{path} holds a {type(state).__name__}, expected an object")
    return state


def _required(state: Mapping[str, Any], key: str, path: Path) -> Any:
    if key not in state:
        raise ReportError(f"{path} has no {key!r}: it is not the state of a Trainer")
    return state[key]


def _rows(history: list[Any]) -> tuple[Rows, int]:
    """Collect the rows; return them and how many had no step."""
    rows, skipped = Rows(), 0
    for row in history:
        step = fields.step(row.get("step")) if isinstance(row, dict) else None
        if step is None:
            skipped += 1
            continue
        numbers = ((key, fields.number(value)) for key, value in row.items())
        rows.add(step, [(key, value) for key, value in numbers if value is not None])
    return rows, skipped


def _seconds_between_checkpoints(directory: Path, step: int) -> Series:
    """Derive step times from when a checkpoint and those before it in its run were written."""
    if not is_checkpoint_directory(directory.name):
        return EMPTY
    written: dict[int, float] = {}
    for number, path in checkpoints_in(directory.parent).items():
        moment = written_at(path / FILE_NAME)
        if number <= step and moment is not None:
            written[number] = moment
    steps = np.array(list(written), dtype=np.int64)
    seconds = np.diff(list(written.values()))
    is_known = seconds >= MIN_INTERVAL_S
    return Series(steps[1:][is_known], (seconds / np.diff(steps))[is_known])


def _totals(state: Mapping[str, Any], history: list[Any]) -> Totals:
    """Take the totals of the state, and those of the row that ends a training.

    Rows of evaluations may follow it, none of a training.
    """
    rows = (row for row in reversed(history) if isinstance(row, dict))
    newest: Mapping[str, Any] = next((r for r in rows if "train_loss" in r or "loss" in r), {})
    final = newest if "train_loss" in newest else {}
    of_end = {field: fields.positive(final.get(key)) for field, key in names.TOTALS.items()}
    of_end["floating_point_operations"] = fields.positive(state.get("total_flos"))
    of_end["mean_loss"] = fields.number(final.get("train_loss"))
    return Totals(tokens=fields.positive(state.get("num_input_tokens_seen")), **of_end)


def _settings(state: Mapping[str, Any]) -> dict[str, Json]:
    found = {key: state[key] for key in _SETTINGS if state.get(key) is not None}
    return plain_object({key: value for key, value in found.items() if is_shallow(value)})
