"""Choose the checkpoints that are to be averaged, and hold them open."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Self

from tracksided.checkpoints.content import is_same_content
from tracksided.checkpoints.formats.base import Checkpoint
from tracksided.checkpoints.formats.catalog import describe
from tracksided.checkpoints.policy import (
    Candidate,
    StepRange,
    mismatch,
    named_step,
    newest_first,
    step_of,
)
from tracksided.checkpoints.provenance import Skipped
from tracksided.checkpoints.source import SourceDirectory, SourceFile, SourceRefused
from tracksided.errors import CheckpointRefused


@dataclass(frozen=True, slots=True)
class Chosen:
    """A checkpoint that will be averaged."""

    checkpoint: Checkpoint
    step: int | None


class Selection:
    """The chosen checkpoints, held open from oldest to newest until `close`."""

    def __init__(self) -> None:
        self.chosen: list[Chosen] = []
        self.skipped: list[Skipped] = []
        self._stack = ExitStack()

    def hold(self, source: SourceFile | SourceDirectory) -> None:
        """Close a source together with the selection."""
        self._stack.callback(source.close)

    def close(self) -> None:
        """Close all sources."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def select(
    candidates: Sequence[Candidate],
    count: int,
    steps: StepRange,
    refused: Mapping[Path, str],
) -> Selection:
    """Open the newest ``count`` checkpoints that are complete and fit together.

    Args:
        candidates: as `tracksided.checkpoints.listing` finds them.
        count: how many at most.
        steps: which are wanted.
        refused: paths that are known to be unusable, with the reason.
    """
    selection = Selection()
    try:
        usable = [candidate for candidate in candidates if candidate.path not in refused]
        selection.skipped += [Skipped(path.name, reason) for path, reason in refused.items()]
        ordered = newest_first(_with_content_steps(usable, selection.skipped))
        for candidate in ordered:
            if len(selection.chosen) == count:
                break
            if steps.holds(step_of(candidate)):
                _take(candidate, selection)
    except BaseException:
        selection.close()
        raise
    selection.chosen.reverse()
    return selection


def _with_content_steps(candidates: Sequence[Candidate], skipped: list[Skipped]) -> list[Candidate]:
    """Look for steps inside of those whose names state none."""
    known: list[Candidate] = []
    for candidate in candidates:
        if named_step(candidate) is not None:
            known.append(candidate)
            continue
        try:
            source = _open(candidate)
            try:
                step = describe(source).step
            finally:
                source.close()
        except CheckpointRefused as error:
            skipped.append(Skipped(candidate.path.name, _reason(error, candidate.path)))
        else:
            known.append(replace(candidate, content_step=step))
    return known


def _take(candidate: Candidate, selection: Selection) -> None:
    """Open one candidate and add it to the selection, or note why not."""
    path = candidate.path
    try:
        source = _open(candidate)
    except CheckpointRefused as error:
        selection.skipped.append(Skipped(path.name, _reason(error, path)))
        return
    try:
        checkpoint = describe(source)
        reason = _unfit(checkpoint, selection)
    except CheckpointRefused as error:
        reason = _reason(error, path)
    if reason is not None:
        source.close()
        selection.skipped.append(Skipped(path.name, reason))
        return
    if isinstance(source, SourceDirectory) and selection.chosen:
        source.keep_open(checkpoint.sources)  # only the newest is the template
    selection.hold(source)
    selection.chosen.append(Chosen(checkpoint, step_of(candidate)))


def _unfit(checkpoint: Checkpoint, selection: Selection) -> str | None:
    if not selection.chosen:
        return None
    for chosen in selection.chosen:
        one, other = chosen.checkpoint.sources[0].identity, checkpoint.sources[0].identity
        if (one.device, one.inode) == (other.device, other.inode):
            return f"is the same file as {chosen.checkpoint.name}"
    reason = mismatch(selection.chosen[0].checkpoint, checkpoint)
    if reason is not None:
        return reason
    for chosen in selection.chosen:
        if is_same_content(chosen.checkpoint, checkpoint):
            return f"is a copy of {chosen.checkpoint.name}"
    return None


def _open(candidate: Candidate) -> SourceFile | SourceDirectory:
    """Open a candidate.

    Raises:
        CheckpointRefused: it cannot be opened, or cannot be complete yet.
    """
    if candidate.unfinished is not None:
        raise SourceRefused(candidate.path, candidate.unfinished)
    path = candidate.path
    return SourceDirectory(path) if candidate.is_directory else SourceFile(path)


def _reason(error: CheckpointRefused, path: Path) -> str:
    """Take the checkpoint's own name out of a message that stands beside it."""
    return str(error).removeprefix(f"{path.name}: ").removeprefix(f"{path.name}/")
