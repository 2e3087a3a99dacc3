"""Which checkpoints are averaged: order, range and what fits together. No I/O, no clock."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tracksided.checkpoints.dtypes import DTYPES, Rule
from tracksided.checkpoints.formats.base import Checkpoint, TensorEntry
from tracksided.checkpoints.shown import shown

MAX_NAMED = 3  # keys listed in a message


@dataclass(frozen=True, slots=True)
class Candidate:
    """A file or directory that may be a checkpoint."""

    path: Path
    mtime_ns: int
    content_step: int | None = None
    is_directory: bool = False
    unfinished: str | None = None
    """Why it cannot be complete yet, or None."""

    is_numbered: bool = False
    """Whether its name makes it one of a series, and not ``last`` or the like."""

    name_step: int | None = None
    """The number in its name that counts, or None where that is not certain."""

    scale: str = ""
    """What that number counts."""

    calls_it_step: bool = False
    """Whether the name calls that number a step."""

    step: int | None = None
    """Where it ranks, as `with_steps` has found; None: by time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRange:
    """Which steps are wanted."""

    first: int | None = None
    """Earlier steps are left out; None for no limit."""

    last: int | None = None
    """Later steps are left out; None for no limit."""

    every: int | None = None
    """Only multiples of it; None for all."""

    @property
    def is_all(self) -> bool:
        """Whether nothing is left out."""
        return self.first is None and self.last is None and self.every is None

    def __str__(self) -> str:
        """Say it as the end of a phrase; empty where nothing is left out."""
        parts = (
            ("from", self.first),
            ("up to", self.last),
            ("in multiples of", self.every),
        )
        named = [f"{word} {number}" for word, number in parts if number is not None]
        return f"of steps {', '.join(named)}" if named else ""

    def holds(self, step: int | None) -> bool:
        """Whether a checkpoint of this step is wanted; one without step only if all are.

        Args:
            step: of the checkpoint; None where it is not known.
        """
        if self.is_all or step is None:
            return self.is_all
        return (
            (self.first is None or step >= self.first)
            and (self.last is None or step <= self.last)
            and (self.every is None or step % self.every == 0)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class BestBy:
    """The checkpoints with the best of a metric are wanted, not the newest."""

    metric: str
    """Its name, as the checkpoint, its directory or its file name has it."""

    mode: str
    """min or max: which end of the metric is good."""

    def rank(self, scored: Sequence[tuple[Candidate, float]]) -> list[tuple[Candidate, float]]:
        """Sort from best to worst; of equal ones the first given stays first.

        Args:
            scored: each with its value of the metric; NaN must be left out.
        """
        return sorted(scored, key=lambda entry: entry[1], reverse=self.mode == "max")


def with_steps(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Decide what the step of each is, now that it is known what their contents say.

    All are counted on one scale: what the names call steps, with the contents of those whose names
    do not; else the numbers in their names, epochs for instance. Where neither is known of all that
    are numbered, time of writing is their order, and no step is stated.

    Args:
        candidates: of one series, those that can be read.
    """
    numbered = [entry for entry in candidates if entry.is_numbered]
    stated = {entry.name_step if entry.calls_it_step else entry.content_step for entry in numbered}
    counted = {entry.name_step for entry in numbered}
    is_counted = None not in counted and len({entry.scale for entry in numbered}) == 1
    # Soups may all be of one step: where names count further than contents, those say no order.
    if None not in stated and not (is_counted and len(stated) < len(counted)):
        return [
            replace(entry, step=entry.name_step if entry.calls_it_step else entry.content_step)
            for entry in candidates
        ]
    return [replace(entry, step=entry.name_step if is_counted else None) for entry in candidates]


def newest_first(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Sort by step, then by time of writing.

    A file without any step (``last.pt``) ranks with the steps that were written before it; one
    with the step of a numbered one behind that.
    """
    by_time = sorted(candidates, key=lambda candidate: candidate.mtime_ns)
    numbered = {entry.step: entry.mtime_ns for entry in by_time if entry.is_numbered}
    ranks: list[tuple[tuple[int, int, bool, str], Candidate]] = []
    reached = -1
    for candidate in by_time:
        step = candidate.step
        rank = reached if step is None else step
        reached = max(reached, rank)
        time = candidate.mtime_ns
        if step is not None and not candidate.is_numbered:
            time = min(time, numbered.get(step, time))
        ranks.append(((rank, time, candidate.is_numbered, candidate.path.name), candidate))
    ranks.sort(key=lambda entry: entry[0], reverse=True)
    return [candidate for _, candidate in ranks]


def unusable(checkpoint: Checkpoint) -> str | None:
    """Say why a checkpoint can be averaged with no other one, or return None where it can."""
    for name, entry in checkpoint.tensors.items():
        if entry.span and DTYPES[entry.dtype].rule is Rule.REFUSE:
            return f"tensor {shown(name)} has dtype {entry.dtype}, which cannot be averaged"
    if all(DTYPES[entry.dtype].rule is Rule.NEWEST for entry in checkpoint.tensors.values()):
        return "holds no weights: all its tensors are integers or bool, such as random state"
    return None


def mismatch(reference: Checkpoint, other: Checkpoint) -> str | None:
    """Say why two checkpoints cannot be averaged, or return None where they can."""
    if reference.format != other.format:
        return f"is {other.format}, {reference.name} is {reference.format}"
    missing = [name for name in reference.tensors if name not in other.tensors]
    added = [name for name in other.tensors if name not in reference.tensors]
    if missing or added:
        parts = [f"lacks {_some(missing)}"] if missing else []
        parts += [f"has {_some(added)} too"] if added else []
        return f"keys differ from {reference.name}: it {' and '.join(parts)}"
    for name, expected in reference.tensors.items():
        found = other.tensors[name]
        if found.shape != expected.shape:
            return (
                f"shape of {shown(name)} is {list(found.shape)}, {list(expected.shape)} "
                f"in {reference.name}"
            )
        if found.dtype != expected.dtype:
            return f"dtype of {shown(name)} is {found.dtype}, {expected.dtype} in {reference.name}"
        if found.span != expected.span or (found.span and _layout(found) != _layout(expected)):
            return f"memory layout of {shown(name)} differs from {reference.name}"
    return None


def _layout(entry: TensorEntry) -> tuple[int, ...]:
    """Strides of the dimensions that have more than one element; the others mean nothing."""
    pairs = zip(entry.shape, entry.strides, strict=True)
    return tuple(stride for size, stride in pairs if size > 1)


def _some(names: Sequence[str]) -> str:
    listed = ", ".join(shown(name) for name in names[:MAX_NAMED])
    rest = len(names) - MAX_NAMED
    return f"{listed} and {rest} more" if rest > 0 else listed
