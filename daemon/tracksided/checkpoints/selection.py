"""Choose the checkpoints that are to be averaged, and hold them open."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Self

from tracksided.checkpoints.content import is_same_content
from tracksided.checkpoints.formats.base import Checkpoint
from tracksided.checkpoints.formats.catalog import describe
from tracksided.checkpoints.formats.compact import compacted
from tracksided.checkpoints.metrics import metric_of
from tracksided.checkpoints.policy import (
    BestBy,
    Candidate,
    StepRange,
    is_step_stated,
    mismatch,
    named_step,
    newest_first,
    step_of,
    unusable,
)
from tracksided.checkpoints.provenance import Skipped
from tracksided.checkpoints.refusals import SourceRefused
from tracksided.checkpoints.source import SourceDirectory, SourceFile
from tracksided.checkpoints.store import Store


@dataclass(frozen=True, slots=True)
class Chosen:
    """A checkpoint that will be averaged."""

    checkpoint: Checkpoint
    step: int | None
    metric: float | None
    """What it was chosen by, where that was a metric."""

    source: SourceFile | SourceDirectory
    is_step_stated: bool
    """Whether name or content call that number a step."""


@dataclass(frozen=True, slots=True)
class _Twin:
    """One that is chosen already, and holds the same."""

    chosen: Chosen
    name: str
    """Of the other one."""

    relation: str
    """Of one to the other."""

    @property
    def skipped(self) -> Skipped:
        """The other one, which is not needed."""
        reason = f"{self.relation} {self.chosen.checkpoint.name}"
        return Skipped(self.name, reason, is_copy=True)


class Selection:
    """The chosen checkpoints, held open from oldest to newest until `close`."""

    def __init__(self) -> None:
        self.chosen: list[Chosen] = []
        self.skipped: list[Skipped] = []
        self._stack = ExitStack()

    def take(self, chosen: Chosen) -> None:
        """Add a checkpoint, and close it together with the selection."""
        self._stack.callback(chosen.source.close)
        self.chosen.append(chosen)

    def exchange(self, twin: _Twin, chosen: Chosen) -> None:
        """Take a checkpoint in the place of its twin, which counts as the copy then."""
        place = next(i for i, entry in enumerate(self.chosen) if entry is twin.chosen)
        self._stack.callback(chosen.source.close)
        self.chosen[place] = chosen
        twin.chosen.source.close()
        self.skipped.append(_Twin(chosen, twin.chosen.checkpoint.name, twin.relation).skipped)

    def keep_only_sources(self) -> None:
        """Let go of what is beside the weights: only the newest is the template."""
        for place, entry in enumerate(self.chosen[:-1]):
            bare = replace(entry.checkpoint, template=None)
            self.chosen[place] = replace(entry, checkpoint=bare)
            if isinstance(entry.source, SourceDirectory):
                entry.source.keep_open(entry.checkpoint.sources)

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
    store: Store,
    candidates: Sequence[Candidate],
    count: int,
    steps: StepRange,
    refused: Mapping[Path, str],
    *,
    best: BestBy | None = None,
) -> Selection:
    """Open the newest or best ``count`` checkpoints that are complete and fit together.

    Args:
        store: where they are.
        candidates: as `tracksided.checkpoints.listing` finds them.
        count: how many at most.
        steps: which are wanted.
        refused: paths that are known to be unusable, with the reason.
        best: the metric to choose by; None chooses the newest.
    """
    selection = Selection()
    try:
        usable = [candidate for candidate in candidates if candidate.path not in refused]
        selection.skipped += [Skipped(path.name, reason) for path, reason in refused.items()]
        ordered = newest_first(_with_content_steps(store, usable, selection.skipped))
        wanted = [candidate for candidate in ordered if steps.holds(step_of(candidate))]
        has_steps = any(step_of(candidate) is not None for candidate in ordered)
        has_step = True
        for candidate, metric in _ranked(store, wanted, best, selection.skipped):
            # Behind one without a step comes the one that it may be a copy of.
            if len(selection.chosen) == count and (has_step or not has_steps):
                break
            _take(store, (candidate, metric), selection, count)
            has_step = step_of(candidate) is not None
        newness = {candidate.path: -place for place, candidate in enumerate(ordered)}
        selection.chosen.sort(key=lambda chosen: newness[chosen.source.path])
        selection.keep_only_sources()
    except BaseException:
        selection.close()
        raise
    return selection


def _with_content_steps(
    store: Store, candidates: Sequence[Candidate], skipped: list[Skipped]
) -> list[Candidate]:
    """Look for steps inside of those whose names state none."""
    known: list[Candidate] = []
    for candidate in candidates:
        if named_step(candidate) is not None:
            known.append(candidate)
            continue
        try:
            with closing(_open(store, candidate)) as source:
                checkpoint = describe(source)
        except SourceRefused as error:
            skipped.append(Skipped(candidate.path.name, error.reason))
        else:
            if checkpoint.is_average:
                skipped.append(_own(checkpoint))
            else:
                known.append(replace(candidate, content_step=checkpoint.step))
    return known


def _ranked(
    store: Store,
    candidates: Sequence[Candidate],
    best: BestBy | None,
    skipped: list[Skipped],
) -> list[tuple[Candidate, float | None]]:
    """Put those first that are wanted first, and note which do not state the metric."""
    if best is None:
        return [(candidate, None) for candidate in candidates]
    scored: list[tuple[Candidate, float]] = []
    for candidate in candidates:
        try:
            with closing(_open(store, candidate)) as source:
                value = metric_of(store, candidate, describe(source), best.metric)
        except SourceRefused as error:
            skipped.append(Skipped(candidate.path.name, error.reason))
        else:
            scored.append((candidate, value))
    return list(best.rank(scored))


def _take(
    store: Store, scored: tuple[Candidate, float | None], selection: Selection, count: int
) -> None:
    """Open one candidate and add it to the selection, or note why not.

    Of copies the one whose step is stated stays, also where the selection is full.
    """
    candidate, metric = scored
    is_full = len(selection.chosen) == count
    unfit: Skipped | _Twin | None
    with ExitStack() as unused:
        try:
            source = _open(store, candidate)
            unused.callback(source.close)
            checkpoint = _described(source, selection)
            unfit = _unfit(checkpoint, selection)
        except SourceRefused as error:
            unfit = Skipped(candidate.path.name, error.reason)
        else:
            is_stated = is_step_stated(candidate)
            chosen = Chosen(checkpoint, step_of(candidate), metric, source, is_stated)
            if isinstance(unfit, _Twin) and is_stated and not unfit.chosen.is_step_stated:
                selection.exchange(unfit, chosen)
                unused.pop_all()
                unfit = None
            elif unfit is None and not is_full:
                selection.take(chosen)
                unused.pop_all()
    if isinstance(unfit, _Twin):
        unfit = unfit.skipped
    if unfit is not None and not is_full:
        selection.skipped.append(unfit)


def _described(source: SourceFile | SourceDirectory, selection: Selection) -> Checkpoint:
    like = selection.chosen[0].checkpoint if selection.chosen else None
    return compacted(describe(source), like)


def _own(checkpoint: Checkpoint) -> Skipped:
    return Skipped(checkpoint.name, "is an average of trackside", is_copy=True)


def _unfit(checkpoint: Checkpoint, selection: Selection) -> Skipped | _Twin | None:
    if checkpoint.is_average:
        return _own(checkpoint)
    reason = unusable(checkpoint)
    if reason is not None or not selection.chosen:
        return None if reason is None else Skipped(checkpoint.name, reason)
    for chosen in selection.chosen:
        one, other = chosen.checkpoint.sources[0].identity, checkpoint.sources[0].identity
        if (one.device, one.inode) == (other.device, other.inode):
            return _Twin(chosen, checkpoint.name, "is the same file as")
    difference = mismatch(selection.chosen[0].checkpoint, checkpoint)
    if difference is not None:
        return Skipped(checkpoint.name, difference)
    for chosen in selection.chosen:
        if is_same_content(chosen.checkpoint, checkpoint):
            return _Twin(chosen, checkpoint.name, "is a copy of")
    return None


def _open(store: Store, candidate: Candidate) -> SourceFile | SourceDirectory:
    """Open a candidate.

    Raises:
        SourceRefused: it cannot be opened, or cannot be complete yet.
    """
    if candidate.unfinished is not None:
        raise SourceRefused(candidate.path, candidate.unfinished)
    name = candidate.path.name
    return store.open_directory(name) if candidate.is_directory else store.open_file(name)
