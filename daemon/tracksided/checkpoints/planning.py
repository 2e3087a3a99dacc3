"""From checkpoints that fit together to runs of bytes: what is read, averaged or copied where."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from tracksided.checkpoints.dtypes import DTYPES, Rule
from tracksided.checkpoints.formats.base import Checkpoint, Record, TensorEntry
from tracksided.checkpoints.shown import shown

Origin = tuple[str, int]
"""Key of a record, and a position in it minus the position in the output's record."""

_Entry = TypeVar("_Entry")


@dataclass(frozen=True, slots=True)
class Piece:
    """A run of bytes of an output record, all of one dtype."""

    start: int
    nbytes: int
    element: str | None
    """What is averaged, as `Dtype.element`; None: copied from the newest."""

    tensor: str
    """For messages; empty where no tensor covers the bytes."""

    origins: tuple[Origin, ...]
    """Where the bytes come from, per checkpoint, oldest first; a single one where all agree."""

    def origin(self, index: int) -> Origin:
        """Return where the bytes come from in one of the checkpoints."""
        return _of(self.origins, index)


@dataclass(frozen=True, slots=True)
class RecordJob:
    """One record of the output. Its pieces cover it without gaps, in order."""

    key: str
    nbytes: int
    pieces: tuple[Piece, ...]
    aligned: tuple[str | None, ...]
    """Per checkpoint, or once where all agree: key of the record that is read from end to end
    beside this one, in step, so that its CRC comes for free; None where there is none."""

    def aligned_in(self, index: int) -> str | None:
        """Return the key of the record that is read beside this one in one of the checkpoints."""
        return _of(self.aligned, index)


@dataclass(slots=True)
class _Run:
    """A piece while it is put together."""

    start: int
    stop: int
    entry: TensorEntry
    tensor: str
    origins: tuple[Origin, ...]
    """As in `Piece`."""

    def origin(self, index: int) -> Origin:
        return _of(self.origins, index)


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
    places = [checkpoint.tensors[name] for checkpoint in checkpoints]
    origins = _once((place.record, place.start - entry.start) for place in places)
    return _Run(entry.start, entry.start + entry.span, entry, name, origins)


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
    for index, checkpoint in enumerate(checkpoints):
        if run.origin(index) != last.origin(index):
            raise checkpoint.refusal(
                f"{both} do not share memory as they do in {checkpoints[-1].name}"
            )


def _job(
    checkpoints: Sequence[Checkpoint], key: str, record: Record, runs: list[_Run]
) -> RecordJob:
    pieces: list[Piece] = []
    position = 0
    for run in runs:
        pieces += _gap(key, position, run.start)
        pieces.append(_piece(run))
        position = run.stop
    pieces += _gap(key, position, record.nbytes)
    aligned = _once(
        _aligned(checkpoint, record, {run.origin(index) for run in runs})
        for index, checkpoint in enumerate(checkpoints)
    )
    return RecordJob(key, record.nbytes, tuple(pieces), aligned)


def _piece(run: _Run) -> Piece:
    dtype = DTYPES[run.entry.dtype]
    element = dtype.element if dtype.rule is Rule.AVERAGE else None
    return Piece(run.start, run.stop - run.start, element, run.tensor, run.origins)


def _gap(key: str, start: int, stop: int) -> list[Piece]:
    """Bytes that no tensor covers come from the newest."""
    return [Piece(start, stop - start, None, "", ((key, 0),))] if start < stop else []


def _aligned(checkpoint: Checkpoint, record: Record, origins: set[Origin]) -> str | None:
    if len(origins) != 1:
        return None
    key, shift = origins.pop()
    return key if shift == 0 and checkpoint.records[key].nbytes == record.nbytes else None


def _once(entries: Iterable[_Entry]) -> tuple[_Entry, ...]:
    """Return a single one where all are equal: there may be many checkpoints, and many tensors."""
    found = tuple(entries)
    return found[:1] if all(entry == found[0] for entry in found) else found


def _of(entries: Sequence[_Entry], index: int) -> _Entry:
    return entries[index if len(entries) > 1 else 0]
