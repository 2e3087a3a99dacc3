"""From checkpoints that fit together to runs of bytes: what is read, averaged or copied where."""

from collections.abc import Sequence
from dataclasses import dataclass

from tracksided.checkpoints.dtypes import DTYPES, Rule
from tracksided.checkpoints.formats.base import Checkpoint, Record, TensorEntry
from tracksided.checkpoints.shown import shown


@dataclass(frozen=True, slots=True)
class Piece:
    """A run of bytes of an output record, all of one dtype."""

    start: int
    nbytes: int
    element: str | None
    """What is averaged, as `Dtype.element`; None: copied from the newest."""

    tensor: str
    """For messages; empty where no tensor covers the bytes."""

    records: tuple[Record, ...]
    """Where the bytes come from, per checkpoint, oldest first."""

    shifts: tuple[int, ...]
    """Per checkpoint: position in its record minus position in the output record."""


@dataclass(frozen=True, slots=True)
class RecordJob:
    """One record of the output. Its pieces cover it without gaps, in order."""

    key: str
    nbytes: int
    pieces: tuple[Piece, ...]
    aligned: tuple[Record | None, ...]
    """Per checkpoint: the record that is read from end to end beside this one, in step,
    so that its CRC comes for free; None where there is none."""


@dataclass(slots=True)
class _Run:
    """A piece while it is put together."""

    start: int
    stop: int
    entry: TensorEntry
    tensor: str
    origin: tuple[tuple[str, int], ...]
    """(record, shift) per checkpoint."""


def plan_records(checkpoints: Sequence[Checkpoint]) -> tuple[RecordJob, ...]:
    """Plan every record of the newest checkpoint, which is the last and the template.

    All of them are averageable as `tracksided.checkpoints.policy.unusable` has it, and alike.

    Raises:
        SourceRefused: tensors that share memory in the newest do not in this one, or do in the
            newest as different dtypes.
    """
    template = checkpoints[-1]
    runs: dict[str, list[_Run]] = {key: [] for key in template.records}
    for name, entry in template.tensors.items():
        if entry.span:
            runs[entry.record].append(_run(checkpoints, name, entry))
    return tuple(
        _job(checkpoints, key, record, _joined(checkpoints, runs[key]))
        for key, record in template.records.items()
    )


def _run(checkpoints: Sequence[Checkpoint], name: str, entry: TensorEntry) -> _Run:
    origin = tuple(
        (checkpoint.tensors[name].record, checkpoint.tensors[name].start - entry.start)
        for checkpoint in checkpoints
    )
    return _Run(entry.start, entry.start + entry.span, entry, name, origin)


def _joined(checkpoints: Sequence[Checkpoint], runs: list[_Run]) -> list[_Run]:
    """Join tensors that overlap; they must overlap in every checkpoint."""
    joined: list[_Run] = []
    for run in sorted(runs, key=lambda run: (run.start, run.stop)):
        last = joined[-1] if joined else None
        if last is None or run.start >= last.stop:
            joined.append(run)
            continue
        _require_shared(checkpoints, run, last)
        last.stop = max(last.stop, run.stop)
    return joined


def _require_shared(checkpoints: Sequence[Checkpoint], run: _Run, last: _Run) -> None:
    """Refuse the first checkpoint in which two tensors do not overlap as in the newest."""
    both = f"{shown(last.tensor)} and {shown(run.tensor)}"
    if run.entry.dtype != last.entry.dtype:
        raise checkpoints[-1].refusal(f"{both} share memory as different dtypes")
    for checkpoint, one, other in zip(checkpoints, run.origin, last.origin, strict=True):
        if one != other:
            raise checkpoint.refusal(
                f"{both} do not share memory as they do in {checkpoints[-1].name}"
            )


def _job(
    checkpoints: Sequence[Checkpoint], key: str, record: Record, runs: list[_Run]
) -> RecordJob:
    pieces: list[Piece] = []
    position = 0
    for run in runs:
        pieces += _gap(record, position, run.start)
        pieces.append(_piece(checkpoints, run))
        position = run.stop
    pieces += _gap(record, position, record.nbytes)
    aligned = tuple(
        _aligned(checkpoint, record, runs, index) for index, checkpoint in enumerate(checkpoints)
    )
    return RecordJob(key, record.nbytes, tuple(pieces), aligned)


def _piece(checkpoints: Sequence[Checkpoint], run: _Run) -> Piece:
    dtype = DTYPES[run.entry.dtype]
    return Piece(
        start=run.start,
        nbytes=run.stop - run.start,
        element=dtype.element if dtype.rule is Rule.AVERAGE else None,
        tensor=run.tensor,
        records=tuple(
            checkpoint.records[key]
            for checkpoint, (key, _) in zip(checkpoints, run.origin, strict=True)
        ),
        shifts=tuple(shift for _, shift in run.origin),
    )


def _gap(record: Record, start: int, stop: int) -> list[Piece]:
    """Bytes that no tensor covers come from the newest."""
    if start >= stop:
        return []
    return [Piece(start, stop - start, None, "", (record,), (0,))]


def _aligned(checkpoint: Checkpoint, record: Record, runs: list[_Run], index: int) -> Record | None:
    origins = {run.origin[index] for run in runs}
    if len(origins) != 1:
        return None
    key, shift = origins.pop()
    found = checkpoint.records[key]
    return found if shift == 0 and found.nbytes == record.nbytes else None
