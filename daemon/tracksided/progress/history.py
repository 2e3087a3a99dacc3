"""Reads a run of trackside: ``history.jsonl``, with ``run.json`` and the totals beside it."""

import json
import logging
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tracksided.checkpoints.listing import list_candidates
from tracksided.checkpoints.local_store import LocalStore
from tracksided.checkpoints.policy import Candidate
from tracksided.errors import CheckpointError, ObservationError, ReportError
from tracksided.observations import AttentionObservation, observe
from tracksided.progress import fields, names
from tracksided.progress.alerts_file import read_alerts
from tracksided.progress.curve import Kind, Series, Totals, TrainingCurve
from tracksided.progress.directories import written_at
from tracksided.progress.event_files import read_logged
from tracksided.progress.rows import Rows
from tracksided.sinks.alerts import FILE_NAME as ALERTS_FILE
from tracksided.sinks.history import FILE_NAME
from tracksided.sinks.json_file import Json, read_json
from tracksided.sinks.line_file import bounded_lines

logger = logging.getLogger(__name__)

RUN_FILE = "run.json"
TOTALS_FILE = "training_statistics.json"
TENSORBOARD_DIR = "tensorboard"
CHECKPOINT_PATTERNS = ("*.pt", "*.pth", "*.pth.tar", "*.pt.tar", "*.ckpt", "*.safetensors", "*/")
# Columns of a line that are numbers over steps; `nonfinite` names those that were NaN or infinite.
_COLUMNS = (
    "loss",
    "lr",
    "norm_before_clip",
    "norm_after_clip",
    "clip_rate",
    "max_norm",
    "step_seconds",
    "micro_batches",
    "epoch",
    "gradient_noise_scale",
    "norm_peak",
    "timestamp",
)
_LOGGED = "logged "  # prefix of columns that the script logged; no column of a line has a blank
# A line holds these keys in this order, see `tracksided.assemble`. What lies between them is long
# and not needed here: it is not even parsed.
_NUMBERS_END = b', "ranks": ['
_LOGGED_START = b', "logged": {'
_DECODER = json.JSONDecoder()
_NO_ATTENTION = b'"attention": {"encoder": [], "decoder": []}'
_EMPTY = b"{}"


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """All that a run's directory tells."""

    curve: TrainingCurve
    noise_scale: Series
    norm_peak: Series
    """Largest gradient norm since the sample before, sampled or not."""

    first_attention: Mapping[str, Any]
    """The first line that counts and has attention, whole; empty where there is none."""

    last_attention: Mapping[str, Any]
    run: Mapping[str, Json]
    """``run.json``; empty where it is missing."""

    totals: Mapping[str, Json]
    """``training_statistics.json``; empty while the run goes on."""


def read_history(path: Path, name: str) -> History:
    """Read one run; a line that is still being written is left for the next time.

    Raises:
        ReportError: the file cannot be read, or none of its lines is one of trackside's.
    """
    lines = _Lines()
    try:
        with path.open("rb") as file:
            for line in bounded_lines(file):
                if line.endswith(b"\n"):  # else it is torn, or not finished yet
                    lines.add(line)
    except OSError as error:
        raise ReportError(f"cannot read {path}: {error.strerror}") from error
    if lines.count and lines.num_skipped == lines.count:
        raise ReportError(f"none of the {lines.count} lines of {path} has a 'step'")
    run = read_json(path.with_name(RUN_FILE)) or {}
    totals = read_json(path.with_name(TOTALS_FILE)) or {}
    if any(totals.get(key) != run.get(key) for key in ("run", "state")):
        totals = {}  # of an earlier run in this directory, or an earlier end of this one
    curve = _curve(lines, run, totals)
    # Event files know the exact step of a value, and what was logged after the last sample.
    logged = read_logged(path.with_name(TENSORBOARD_DIR))
    curve = replace(
        curve,
        name=name,
        source=path,
        written_at=written_at(path),
        evaluation=logged.evaluation or curve.evaluation,
        tokens=logged.tokens if len(logged.tokens) else curve.tokens,
        totals=replace(
            logged.totals,
            training_seconds=curve.totals.training_seconds or logged.totals.training_seconds,
        ),
        alerts=read_alerts(path.with_name(ALERTS_FILE), run.get("run")),
        notes=(*curve.notes, *logged.damages),
    )
    return History(
        curve=curve,
        noise_scale=lines.rows.series("gradient_noise_scale"),
        norm_peak=lines.rows.series("norm_peak"),
        first_attention=lines.first_attention,
        last_attention=lines.last_attention,
        run=run,
        totals=totals,
    )


class _Lines:
    """Takes in lines; keeps their numbers, and whole the few that are looked at as such."""

    def __init__(self) -> None:
        self.rows = Rows()
        self.count = 0
        self.num_skipped = 0
        self._last = _EMPTY
        self._first_attention: tuple[int, bytes] | None = None
        self._last_attention: tuple[int, bytes] | None = None

    def add(self, line: bytes) -> None:
        self.count += 1
        entry = _entry(line)
        if entry is None:
            self.num_skipped += 1
            return
        step, _ = entry
        self.rows.add(*entry)
        self._last = line
        if self._first_attention is not None and step <= self._first_attention[0]:
            self._first_attention = None  # of a try that was abandoned
        if self._last_attention is not None and step <= self._last_attention[0]:
            self._last_attention = None
        if _NO_ATTENTION not in line:
            self._first_attention = self._first_attention or (step, line)
            self._last_attention = (step, line)

    @property
    def last(self) -> dict[str, Any]:
        """The last line, empty where there is none."""
        return _whole(self._last)

    @property
    def first_attention(self) -> dict[str, Any]:
        """The first line that counts and has attention."""
        return _whole(_EMPTY if self._first_attention is None else self._first_attention[1])

    @property
    def last_attention(self) -> dict[str, Any]:
        """The last line that has attention."""
        return _whole(_EMPTY if self._last_attention is None else self._last_attention[1])

    def notes(self) -> tuple[str, ...]:
        skipped = f"{self.num_skipped} of {self.count} lines of {FILE_NAME} are not readable"
        return (*self.rows.notes(), *([skipped] if self.num_skipped else ()))


def _whole(line: bytes) -> dict[str, Any]:
    """Parse a whole line; an empty object where what `_parse` passed over is damaged."""
    try:
        document = json.loads(line)
    except (ValueError, RecursionError) as error:
        logger.debug("a line of %s is read in part: %s", FILE_NAME, error)
        return {}
    return document if isinstance(document, dict) else {}


def _entry(line: bytes) -> tuple[int, list[tuple[str, float]]] | None:
    """Return step and numbers of a line, None where it is no line of ours."""
    try:
        numbers, logged = _parse(line)
    except (ValueError, RecursionError):
        return None
    step = fields.step(numbers.get("step"))
    return None if step is None else (step, [*_numbers(numbers), *_logged(logged)])


def _parse(line: bytes) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Parse a line without its long parts.

    A cut before a key of the outermost object leaves an object that lacks only its brace. If the
    cut is elsewhere, or the keys stand in another order, that is no JSON: then the whole line is
    parsed. Quotes within texts are escaped, so that no text looks like a key.
    """
    head, found, tail = line.partition(_NUMBERS_END)
    _, found_logged, after = tail.partition(_LOGGED_START)
    if found and found_logged:
        try:
            logged, _ = _DECODER.raw_decode("{" + after.decode())
            return json.loads(head + b"}"), logged
        except ValueError:
            pass  # parsed as a whole below
    document = json.loads(line)
    if not isinstance(document, dict):
        raise ValueError("not an object")  # noqa: TRY004 - as json's own errors
    logged_values = document.get("logged")
    return document, logged_values if isinstance(logged_values, dict) else {}


def _numbers(document: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    named = document.get("nonfinite")
    nonfinite = named if isinstance(named, list) else ()
    for column in _COLUMNS:
        value = fields.number(document.get(column))
        if value is not None:
            yield column, value
        elif column in nonfinite:
            yield column, math.nan


def _logged(document: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for key, value in document.items():
        found = fields.number(value)
        # What is logged is a number: null stands for NaN or infinity.
        yield _LOGGED + key, math.nan if found is None else found


def _curve(lines: _Lines, run: Mapping[str, Json], totals: Mapping[str, Json]) -> TrainingCurve:
    rows = lines.rows
    logged = {
        column.removeprefix(_LOGGED): rows.series(column)
        for column in rows.names
        if column.startswith(_LOGGED)
    }
    tokens = names.find(logged, names.TOKENS)
    config = run.get("config")
    settings = config if isinstance(config, dict) else {}
    norms = rows.series("norm_before_clip")
    clip = rows.series("max_norm").finite
    steps = fields.step(totals.get("steps"))
    checkpoint = _newest_checkpoint(run.get("checkpoints"))
    max_steps = fields.count(settings.get("max_steps"))
    num_epochs = fields.positive(settings.get("num_train_epochs"))
    return TrainingCurve(
        name="",
        source=Path(),
        kind=Kind.HISTORY,
        loss=rows.series("loss"),
        learning_rate=rows.series("lr"),
        gradient_norm=norms if len(norms) else rows.series("norm_after_clip"),
        clip_rate=rows.series("clip_rate"),
        epoch=rows.series("epoch"),
        seconds_per_step=rows.series("step_seconds"),
        tokens=logged[tokens] if tokens is not None else rows.series(""),
        evaluation=names.held_out(logged.items()),
        # A resumed session counts its own steps from 1: the last sample may be ahead of them.
        step=max((s for s in (steps, rows.last_step) if s is not None), default=None),
        max_steps=max_steps,
        num_epochs=num_epochs if max_steps is None else None,  # the Trainer then ignores it
        samples_per_step=_samples_per_step(run, settings),
        max_gradient_norm=float(clip.values[-1]) if len(clip) else None,
        totals=_totals(totals),
        started_at=fields.positive(run.get("started_at")),
        checkpoint=None if checkpoint is None else checkpoint.path.name,
        checkpoint_at=None if checkpoint is None else checkpoint.mtime_ns / 1e9,
        settings={**_own_settings(run), **settings},
        statistics=_statistics(lines, totals),
        notes=lines.notes(),
    )


def _newest_checkpoint(directories: Json) -> Candidate | None:
    """Return the checkpoint that was written last into the directories that a run announced."""
    found: list[Candidate] = []
    for directory in directories if isinstance(directories, list) else ():
        try:
            found += list_candidates(LocalStore(Path(str(directory))), CHECKPOINT_PATTERNS, ())
        except CheckpointError:
            continue  # it lies on another machine, or is gone
    return max(found, key=lambda candidate: candidate.mtime_ns, default=None)


def _own_settings(run: Mapping[str, Json]) -> dict[str, Json]:
    """Return what ``run.json`` says of the run, besides the user's own settings."""
    versions = run.get("versions")
    of_versions = versions if isinstance(versions, dict) else {}
    found = {key: run[key] for key in ("world_size", "every") if key in run}
    return {**found, **{f"version of {name}": text for name, text in of_versions.items()}}


def _statistics(lines: _Lines, totals: Mapping[str, Json]) -> dict[str, float]:
    last = lines.last
    found: dict[str, float | None] = {
        "clip rate": fields.number(last.get("clip_rate")),
        "gradient noise scale": fields.number(last.get("gradient_noise_scale")),
        **_dropped(last, totals),
        "sampled steps": fields.number(totals.get("processed")),
    }
    for entry in attention_entries(lines.last_attention):
        found[f"entropy of {entry.title}"] = entry.entropy
    return {name: value for name, value in found.items() if value is not None}


def _dropped(last: Mapping[str, Any], totals: Mapping[str, Json]) -> dict[str, float | None]:
    causes = totals.get("dropped")
    if isinstance(causes, dict):
        return {"dropped samples": sum(fields.number(count) or 0.0 for count in causes.values())}
    return {"dropped samples of the lowest rank": fields.number(last.get("dropped"))}


def attention_entries(line: Mapping[str, Any]) -> tuple[AttentionObservation, ...]:
    """Return what a line says of attention; nothing where it is not one of ours."""
    try:
        return observe(line).attention
    except ObservationError:
        return ()


def _samples_per_step(run: Mapping[str, Json], settings: Mapping[str, Json]) -> float | None:
    """Return the batch of all ranks, where the Trainer's own arguments are the settings."""
    per_rank = fields.count(settings.get("train_batch_size"))
    micro_batches = fields.count(settings.get("gradient_accumulation_steps"))
    world_size = fields.count(run.get("world_size"))
    is_trainer = "per_device_train_batch_size" in settings
    if not is_trainer or per_rank is None or micro_batches is None or world_size is None:
        return None
    return float(per_rank * micro_batches * world_size)


def _totals(totals: Mapping[str, Json]) -> Totals:
    started, ended = (
        fields.positive(totals.get("started_at")),
        fields.positive(totals.get("ended_at")),
    )
    seconds = None if started is None or ended is None else ended - started
    return Totals(training_seconds=fields.positive(seconds))
