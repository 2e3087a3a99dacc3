"""Find the checkpoints of a directory that are to be averaged, and open them."""

import fnmatch
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Self

from tracksided.checkpoints.content import is_same_content
from tracksided.checkpoints.formats.base import Checkpoint
from tracksided.checkpoints.formats.catalog import describe
from tracksided.checkpoints.naming import step_in_name
from tracksided.checkpoints.policy import Candidate, StepRange, mismatch, newest_first, step_of
from tracksided.checkpoints.provenance import Skipped, is_own_output
from tracksided.checkpoints.source import SourceFile
from tracksided.errors import CheckpointError, CheckpointRefused


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

    def hold(self, source: SourceFile) -> None:
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


def list_candidates(
    directory: Path, patterns: Sequence[str], output_name: str
) -> tuple[Candidate, ...]:
    """List the files that match a pattern and are not the work of averaging itself.

    Raises:
        CheckpointError: the directory cannot be read.
    """
    try:
        with os.scandir(directory) as entries:
            names = [entry.name for entry in entries if _matches(entry.name, patterns)]
    except OSError as error:
        raise CheckpointError(f"{directory}: cannot be read: {error.strerror}") from error
    output = _inode(directory / output_name)
    candidates = []
    for name in names:
        path = directory / name
        try:
            status = path.stat()
        except OSError:
            continue  # rotated away since it was listed
        is_output = name == output_name or (status.st_dev, status.st_ino) == output
        if not is_output and not path.is_dir() and not is_own_output(path):
            candidates.append(Candidate(path, status.st_mtime_ns))
    return tuple(candidates)


def select(
    candidates: Sequence[Candidate],
    count: int,
    steps: StepRange,
    refused: Mapping[Path, str],
) -> Selection:
    """Open the newest ``count`` checkpoints that are complete and fit together.

    Args:
        candidates: as `list_candidates` finds them.
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
    """Look for steps inside of files whose names state none."""
    known: list[Candidate] = []
    for candidate in candidates:
        if step_in_name(candidate.path.name) is not None:
            known.append(candidate)
            continue
        try:
            source = SourceFile(candidate.path)
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
        source = SourceFile(path)
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


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return not name.startswith(".") and any(
        fnmatch.fnmatchcase(name, pattern) for pattern in patterns
    )


def _inode(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _reason(error: CheckpointRefused, path: Path) -> str:
    return str(error).removeprefix(f"{path.name}: ")
