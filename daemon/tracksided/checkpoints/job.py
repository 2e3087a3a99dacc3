"""One averaging from a directory to the published file, start to end."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tracksided.checkpoints.averaging import Progress
from tracksided.checkpoints.listing import list_candidates
from tracksided.checkpoints.output_names import DEFAULT_OUTPUT, output_name, possible_names
from tracksided.checkpoints.placement import output_path
from tracksided.checkpoints.policy import BestBy, Candidate, StepRange
from tracksided.checkpoints.provenance import (
    Provenance,
    Skipped,
    describes,
)
from tracksided.checkpoints.refusals import SourceRefused
from tracksided.checkpoints.remote.address import RemoteAddress
from tracksided.checkpoints.selection import Selection, Wanted, select
from tracksided.checkpoints.store import Home, Store
from tracksided.checkpoints.stores import open_store
from tracksided.checkpoints.weights import DEFAULT_DECAY, weights
from tracksided.checkpoints.workers import Alone, Workers
from tracksided.checkpoints.writing import Task, publish_average
from tracksided.errors import CheckpointError

DEFAULT_COUNT = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class AverageRequest:
    """What to average, and how."""

    directory: Path | RemoteAddress
    """Where the checkpoints lie, and the average will, or beside it: see
    `tracksided.checkpoints.placement`."""

    output_name: str = DEFAULT_OUTPUT
    """A name: the average lies beside its sources, or beside ``directory``. Its suffix follows the
    format; for directories it goes without one, and the default is ``averaged``."""

    patterns: tuple[str, ...] = ("*.pt",)
    """Shell patterns of checkpoint names; one that ends in a slash is for directories only.
    The first that any usable checkpoint matches decides the format."""

    count: int = DEFAULT_COUNT
    """How many of the newest, or of the best."""

    minimum: int = 2
    """Fewer usable checkpoints are an error."""

    method: str = "uniform"
    """One of `tracksided.checkpoints.weights.METHODS`."""

    decay: float = DEFAULT_DECAY
    """Of ``ema``, per mean gap between checkpoints; between 0 and 1, both excluded."""

    steps: StepRange = field(default_factory=StepRange)
    """Which steps may be taken."""

    best: BestBy | None = None
    """Take the best by a metric; None takes the newest."""

    mix_series: bool = False
    """Take checkpoints of all series that match, not those of one."""

    num_threads: int = 2
    """Threads that read and sum."""

    unsettled: frozenset[str] = frozenset()
    """Names that are left alone without a word: somebody is writing them."""

    keep_current: bool = False
    """Do nothing where the output is already made of the same sources."""


@dataclass(frozen=True, slots=True)
class PlannedSource:
    """A checkpoint that would be averaged."""

    name: str
    """Of its file or directory."""

    step: int | None
    """None where neither name nor content says it."""

    bytes: int
    """Of all its files that hold tensors."""

    weight: float
    """In the sum; all weights sum to 1."""

    metric: float | None
    """What it would be chosen by, where that is a metric."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What an averaging would do. Sources are listed from oldest to newest."""

    output: str
    """Where the average would be published."""

    method: str
    """As in the request."""

    best: BestBy | None
    """What the sources were chosen by; None: they are the newest."""

    sources: tuple[PlannedSource, ...]
    """What would be averaged."""

    skipped: tuple[Skipped, ...]
    """What would not be, and why."""


@dataclass(frozen=True, slots=True)
class Unchanged:
    """Nothing was averaged: the output is made of the same sources already."""

    provenance: Mapping[str, object]
    """What the JSON file says of it."""

    skipped: tuple[Skipped, ...]
    """What could not have been used, and why."""


class TooFewCheckpoints(CheckpointError):
    """A directory holds fewer usable checkpoints than are needed."""

    def __init__(
        self, message: str, skipped: tuple[Skipped, ...], *, found: int, needed: int
    ) -> None:
        """Say how many there are.

        Args:
            message: for the user.
            skipped: what could not be used, and why.
            found: usable checkpoints.
            needed: at least.
        """
        super().__init__(message)
        self.skipped = skipped
        self.found = found
        self.needed = needed


def plan_average(request: AverageRequest) -> Plan:
    """Say what `run_average` would do, reading structures only.

    Args:
        request: what to average, and how.

    Raises:
        CheckpointError: nothing can be averaged.
    """
    store = open_store(request.directory, request.count)
    with _select(store, request, {}) as selection:
        chosen, home = selection.chosen, store.home()
        output = output_name(home, request.output_name, chosen[-1].checkpoint.format)
        return Plan(
            output=f"{home.store}/{output}",
            method=request.method,
            best=request.best,
            sources=tuple(
                PlannedSource(
                    entry.checkpoint.name,
                    entry.step,
                    entry.checkpoint.nbytes,
                    weight,
                    entry.metric,
                )
                for entry, weight in zip(chosen, _weights(request, selection), strict=True)
            ),
            skipped=tuple(selection.skipped),
        )


def run_average(
    request: AverageRequest, progress: Progress | None = None, workers: Workers | None = None
) -> Provenance | Unchanged:
    """Average and publish; sources that turn out unusable are replaced by older ones.

    Args:
        request: what to average.
        progress: told how far this process's share is.
        workers: who does the work; this process alone if not given.

    Returns:
        What was published, or `Unchanged` where `AverageRequest.keep_current` left it as it is.

    Raises:
        CheckpointError: nothing can be averaged; the previous average stays.
        OutputError: the average cannot be written; the previous one stays.
    """
    started = time.perf_counter()
    store = open_store(request.directory, request.count)
    refused: dict[Path, SourceRefused] = {}
    while True:
        with _select(store, request, refused) as selection:
            home = store.home()
            output = output_name(home, request.output_name, selection.chosen[-1].checkpoint.format)
            if request.keep_current:
                current = _current(home.store, request, output, selection)
                if current is not None:
                    return Unchanged(current, tuple(selection.skipped))
            try:
                task = _task(request, selection, (home, output), started)
                return publish_average(task, workers or Alone(), progress)
            except SourceRefused as error:
                if error.path in refused:
                    raise
                refused[error.path] = error


def output_place(request: AverageRequest, output: str, sources_in: str) -> str:
    """Return the path or URL of an average that was made.

    Args:
        request: that it was made for.
        output: its name, as its provenance has it.
        sources_in: as its provenance has it.
    """
    if isinstance(request.directory, Path):
        return str(output_path(request.directory, output, sources_in))
    return f"{request.directory}/{output}"


def _candidates_by_pattern(
    store: Store, request: AverageRequest
) -> Iterator[tuple[str, tuple[Candidate, ...]]]:
    """List the candidates of one pattern after the other, where there are any."""
    # By name, not by provenance alone: that may be unreadable or gone.
    outputs = possible_names(request.output_name)
    for pattern in request.patterns:
        listed = list_candidates(store, (pattern,), outputs)
        # By name alone: the checkpoint that a link leads to has settled before the link.
        found = tuple(entry for entry in listed if entry.path.name not in request.unsettled)
        if found:
            yield pattern, found


def _select(store: Store, request: AverageRequest, refused: dict[Path, SourceRefused]) -> Selection:
    """Select from the first pattern that matches enough; close what it returns.

    Raises:
        CheckpointError: there is too little.
    """
    needed = min(request.minimum, request.count)
    wanted = Wanted(
        count=request.count,
        needed=needed,
        steps=request.steps,
        best=request.best,
        is_mixed=request.mix_series,
    )
    skipped: dict[str, Skipped] = {}
    tried, found = request.patterns, 0
    hint = ""
    for pattern, candidates in _candidates_by_pattern(store, request):
        selection = select(store, candidates, wanted, refused)
        if len(selection.chosen) >= needed:
            known = {entry.name for entry in selection.skipped}
            others = [entry for name, entry in skipped.items() if name not in known]
            selection.skipped = others + selection.skipped
            return selection
        selection.close()
        if len(selection.chosen) > found:
            tried, found = (pattern,), len(selection.chosen)
            hint = _hint(request, selection, needed)
        skipped |= {entry.name: entry for entry in selection.skipped}
    raise TooFewCheckpoints(
        _too_few(request, tried, (found, needed), hint, list(skipped.values())),
        tuple(skipped.values()),
        found=found,
        needed=needed,
    )


def _too_few(
    request: AverageRequest,
    tried: Sequence[str],
    numbers: tuple[int, int],
    hint: str,
    skipped: Sequence[Skipped],
) -> str:
    found, needed = numbers
    patterns = ", ".join(tried)
    others = ", ".join(pattern for pattern in request.patterns if pattern not in tried)
    steps = "" if request.steps.is_all else f" {request.steps}"
    message = (
        f"{request.directory}: {found} usable checkpoints{steps} match {patterns}, {needed} are "
        "needed"
    )
    if hint:
        message += f"; {hint}"
    elif others:
        message += f"; --pattern chooses others, such as {others}"
    reasons = "; ".join(f"{entry.name}: {entry.reason}" for entry in skipped)
    return f"{message}; skipped {reasons}" if reasons else message


def _hint(request: AverageRequest, selection: Selection, needed: int) -> str:
    """Say what would help: without the one that the others differ from, or with other series."""
    if len(selection.chosen) != 1 or selection.num_unlike < needed:
        is_enough = len(selection.chosen) + selection.num_apart >= needed
        return "--mix-series takes those of other series, too" if is_enough else ""
    chosen = selection.chosen[0]
    others = f"{selection.num_unlike} others"
    message = f"{chosen.checkpoint.name}, the first choice, differs from {others}: move it away"
    if chosen.step is not None and request.best is None:
        message += f", or leave it out with --to-step {chosen.step - 1},"
    return f"{message} to average them"


def _weights(request: AverageRequest, selection: Selection) -> tuple[float, ...]:
    steps = [entry.step for entry in selection.chosen]
    return weights(request.method, steps, decay=request.decay)


def _task(
    request: AverageRequest, selection: Selection, output: tuple[Home, str], started: float
) -> Task:
    return Task(
        selection=selection,
        weights=_weights(request, selection),
        method=request.method,
        best=request.best,
        home=output[0],
        output=output[1],
        num_threads=request.num_threads,
        started=started,
    )


def _current(
    store: Store, request: AverageRequest, output: str, selection: Selection
) -> Mapping[str, object] | None:
    """Return the provenance of an output that is made of just this selection, else None."""
    known = store.provenance_of(output)
    identities = [
        (entry.checkpoint.name, entry.checkpoint.nbytes, entry.checkpoint.mtime_ns)
        for entry in selection.chosen
    ]
    if known is None:
        return None
    is_current = describes(known, (output, store.bytes_of(output)), request.method, identities)
    return known if is_current else None
