"""Choose the checkpoints that are to be averaged, and hold them open."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Self

from tracksided.checkpoints.copies import Copies
from tracksided.checkpoints.formats.base import Checkpoint
from tracksided.checkpoints.formats.catalog import describe
from tracksided.checkpoints.formats.compact import compacted
from tracksided.checkpoints.metrics import metric_of
from tracksided.checkpoints.policy import (
    BestBy,
    Candidate,
    StepRange,
    mismatch,
    newest_first,
    unusable,
    with_steps,
)
from tracksided.checkpoints.provenance import Skipped
from tracksided.checkpoints.refusals import SourceRefused
from tracksided.checkpoints.series import Series, series_of
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
    candidate: Candidate
    """What was opened."""

    @property
    def statement(self) -> tuple[bool, bool]:
        """How clearly it says of which step it is; of copies the clearest counts."""
        return self.candidate.is_numbered, self.step is not None


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
        self.num_unlike = 0
        """Others that are skipped because they do not fit the first that was taken."""

        self.num_apart = 0
        """Others that are skipped because they are of another series."""

        self._copies = Copies()
        self._of_step: dict[tuple[int | None, bool], Chosen] = {}
        """The first of each step, and the first of those that are numbered."""

        self._stack = ExitStack()

    def take(self, chosen: Chosen) -> None:
        """Add a checkpoint, and close it together with the selection; raises SourceRefused."""
        self._copies.add(chosen.checkpoint)
        self._stack.callback(chosen.source.close)
        self.chosen.append(chosen)
        self._note_step(chosen)

    def of_step(self, step: int, *, is_numbered: bool) -> Chosen | None:
        """Return the first that is of a step.

        Args:
            step: of the optimizer, or whatever the names count.
            is_numbered: only one whose name makes it one of a series.
        """
        return self._of_step.get((step, is_numbered))

    def _note_step(self, chosen: Chosen) -> None:
        for is_numbered in {False, chosen.candidate.is_numbered}:
            self._of_step.setdefault((chosen.step, is_numbered), chosen)

    def twin_in_file(self, checkpoint: Checkpoint) -> _Twin | None:
        """Return the one that lies in the same file, under another name."""
        return self._twin(self._copies.same_file(checkpoint), checkpoint, "is the same file as")

    def twin_in_content(self, checkpoint: Checkpoint) -> _Twin | None:
        """Return the one that a checkpoint, which fits the others, is a copy of."""
        return self._twin(self._copies.same_content(checkpoint), checkpoint, "is a copy of")

    def _twin(
        self, found: Checkpoint | None, checkpoint: Checkpoint, relation: str
    ) -> _Twin | None:
        if found is None:
            return None
        chosen = next(entry for entry in self.chosen if entry.checkpoint is found)
        return _Twin(chosen, checkpoint.name, relation)

    def exchange(self, twin: _Twin, chosen: Chosen) -> None:
        """Take a checkpoint in the place of its twin, which counts as the copy then."""
        self._copies.remove(twin.chosen.checkpoint)
        self._copies.add(chosen.checkpoint)
        place = next(i for i, entry in enumerate(self.chosen) if entry is twin.chosen)
        self._stack.callback(chosen.source.close)
        self.chosen[place] = chosen
        self._of_step = {key: one for key, one in self._of_step.items() if one is not twin.chosen}
        self._note_step(chosen)
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which checkpoints are wanted."""

    count: int
    """How many at most."""

    needed: int = 1
    """A series with fewer that can be used gives way to the next."""

    steps: StepRange = field(default_factory=StepRange)
    """Which steps."""

    best: BestBy | None = None
    """The metric to choose by; None chooses the newest."""

    is_mixed: bool = False
    """Of all series together."""


def select(
    store: Store,
    candidates: Sequence[Candidate],
    wanted: Wanted,
    refused: Mapping[Path, SourceRefused],
) -> Selection:
    """Open the newest or best checkpoints of one series that are complete and fit together.

    Args:
        store: where they are.
        candidates: as `tracksided.checkpoints.listing` finds them.
        wanted: how many, and which.
        refused: what is known to be unusable, by its path.
    """
    usable = [candidate for candidate in candidates if candidate.path not in refused]
    skipped = {path.name: Skipped.of(error) for path, error in refused.items()}
    fullest = Selection()
    taken: Series | None = None
    all_series = series_of(usable, is_mixed=wanted.is_mixed)
    try:
        for series in all_series:
            selection = _select_from(store, series, wanted)
            skipped |= {entry.name: entry for entry in selection.skipped}
            is_fuller = len(selection.chosen) > len(fullest.chosen)
            if is_fuller:
                fullest, selection, taken = selection, fullest, series
            selection.close()
            if len(fullest.chosen) >= wanted.needed:
                break
    except BaseException:
        fullest.close()
        raise
    apart = {
        candidate.path.name: Skipped(candidate.path.name, series.reason, is_copy=True)
        for series in all_series
        for candidate in series.candidates
        if taken is not None and series is not taken and candidate.path.name not in skipped
    }
    fullest.num_apart = len(apart)
    skipped |= apart
    fullest.skipped = list(skipped.values())
    return fullest


def _select_from(store: Store, series: Series, wanted: Wanted) -> Selection:
    selection = Selection()
    try:
        ordered = newest_first(
            with_steps(_with_content_steps(store, series.candidates, selection.skipped))
        )
        inside = [candidate for candidate in ordered if wanted.steps.holds(candidate.step)]
        has_numbers = any(candidate.is_numbered for candidate in ordered)
        is_numbered = True
        for candidate, metric in _ranked(store, inside, wanted.best, selection.skipped):
            # Behind one without a number comes the one that it may be a copy of.
            if len(selection.chosen) == wanted.count and (is_numbered or not has_numbers):
                break
            _take(store, (candidate, metric), selection, wanted)
            is_numbered = candidate.is_numbered
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
    """Look for steps inside of those whose names call none."""
    known: list[Candidate] = []
    for candidate in candidates:
        if candidate.calls_it_step:
            known.append(candidate)
            continue
        try:
            with closing(_open(store, candidate)) as source:
                checkpoint = describe(source)
        except SourceRefused as error:
            skipped.append(Skipped.of(error))
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
            skipped.append(Skipped.of(error))
        else:
            scored.append((candidate, value))
    return list(best.rank(scored))


def _take(
    store: Store, scored: tuple[Candidate, float | None], selection: Selection, wanted: Wanted
) -> None:
    """Open one candidate and add it to the selection, or note why not.

    Of copies the one whose name has the step stays, also where the selection is full.
    """
    candidate, metric = scored
    is_full = len(selection.chosen) == wanted.count
    unfit: Skipped | _Twin | None
    with ExitStack() as unused:
        try:
            source = _open(store, candidate)
            unused.callback(source.close)
            checkpoint = _described(source, selection)
            unfit = _unfit(checkpoint, selection)
            if unfit is None and not wanted.is_mixed:
                unfit = _of_the_same_step(candidate, selection)
            chosen = Chosen(checkpoint, candidate.step, metric, source, candidate)
            if isinstance(unfit, _Twin) and chosen.statement > unfit.chosen.statement:
                selection.exchange(unfit, chosen)
                unused.pop_all()
                unfit = None
            elif unfit is None and not is_full:
                selection.take(chosen)
                unused.pop_all()
        except SourceRefused as error:
            unfit = Skipped.of(error)
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
    twin = selection.twin_in_file(checkpoint)
    if twin is not None:
        return twin
    difference = mismatch(selection.chosen[0].checkpoint, checkpoint)
    if difference is not None:
        selection.num_unlike += 1
        return Skipped(checkpoint.name, difference)
    return selection.twin_in_content(checkpoint)


def _of_the_same_step(candidate: Candidate, selection: Selection) -> Skipped | None:
    """Refuse a second state of one step: by names, not of soups, which have none."""
    if candidate.step is None:
        return None
    chosen = selection.of_step(candidate.step, is_numbered=not candidate.is_numbered)
    if chosen is None:
        return None
    reason = f"is of step {chosen.step}, like {chosen.checkpoint.name}, and not the same"
    return Skipped(candidate.path.name, reason)


def _open(store: Store, candidate: Candidate) -> SourceFile | SourceDirectory:
    """Open a candidate.

    Raises:
        SourceRefused: it cannot be opened, or cannot be complete yet.
    """
    if candidate.unfinished is not None:
        raise SourceRefused(candidate.path, candidate.unfinished)
    name = candidate.path.name
    return store.open_directory(name) if candidate.is_directory else store.open_file(name)
