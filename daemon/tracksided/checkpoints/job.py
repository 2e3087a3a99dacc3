"""One averaging from a directory to the published file, start to end."""

import datetime as dt
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path, PurePath

from tracksided.checkpoints.arithmetic import BLOCK_BYTES
from tracksided.checkpoints.averaging import Averaged, Progress, average, record_crc
from tracksided.checkpoints.content import content_digest
from tracksided.checkpoints.formats.base import CheckpointFormat, OutputLayout
from tracksided.checkpoints.formats.catalog import FORMATS, format_of
from tracksided.checkpoints.naming import provenance_name
from tracksided.checkpoints.policy import Candidate, StepRange
from tracksided.checkpoints.provenance import (
    Provenance,
    Skipped,
    SourceRecord,
    describes,
    read_provenance,
)
from tracksided.checkpoints.publish import Publication, publish_json, sweep
from tracksided.checkpoints.selection import Selection, list_candidates, select
from tracksided.checkpoints.source import SourceFile, SourceRefused
from tracksided.checkpoints.weights import DEFAULT_DECAY, weights
from tracksided.errors import CheckpointError, CheckpointRefused, OutputError

DEFAULT_COUNT = 5
DEFAULT_OUTPUT = "averaged_model.pt"


@dataclass(frozen=True, slots=True, kw_only=True)
class AverageRequest:
    """What to average, and how."""

    directory: Path
    output_name: str = DEFAULT_OUTPUT
    """In ``directory``, or a path of its own. Its suffix follows the format."""

    patterns: tuple[str, ...] = ("*.pt",)
    """Shell patterns of checkpoint names. The first that any file matches decides the format."""

    count: int = DEFAULT_COUNT
    minimum: int = 2
    """Fewer usable checkpoints are an error."""

    method: str = "uniform"
    decay: float = DEFAULT_DECAY
    steps: StepRange = field(default_factory=StepRange)
    num_threads: int = 2
    keep_current: bool = False
    """Do nothing where the output is already made of the same sources."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What an averaging would do. Sources are listed from oldest to newest."""

    output: Path
    method: str
    sources: tuple[tuple[str, int | None, int, float], ...]
    """(name, step, bytes, weight)."""

    skipped: tuple[Skipped, ...]


class TooFewCheckpoints(CheckpointError):
    """A directory holds fewer usable checkpoints than are needed."""

    def __init__(self, message: str, skipped: tuple[Skipped, ...]) -> None:
        super().__init__(message)
        self.skipped = skipped


def plan_average(request: AverageRequest) -> Plan:
    """Say what `run_average` would do, reading structures only.

    Raises:
        CheckpointError: nothing can be averaged.
    """
    with _select(request, {}) as selection:
        chosen = selection.chosen
        return Plan(
            output=_output_path(request, chosen[-1].checkpoint.format),
            method=request.method,
            sources=tuple(
                (entry.checkpoint.name, entry.step, entry.checkpoint.source.nbytes, weight)
                for entry, weight in zip(chosen, _weights(request, selection), strict=True)
            ),
            skipped=tuple(selection.skipped),
        )


def run_average(request: AverageRequest, progress: Progress | None = None) -> Provenance | None:
    """Average and publish; sources that turn out unusable are replaced by older ones.

    Returns:
        What was published, or None where `AverageRequest.keep_current` left it as it is.

    Raises:
        CheckpointError: nothing can be averaged; the previous average stays.
        OutputError: the average cannot be written; the previous one stays.
    """
    started = time.perf_counter()
    refused: dict[Path, str] = {}
    while True:
        with _select(request, refused) as selection:
            output = _output_path(request, selection.chosen[-1].checkpoint.format)
            if request.keep_current and _is_current(request, output, selection):
                return None
            try:
                return _publish(request, selection, output, started, progress)
            except SourceRefused as error:
                if error.path in refused:
                    raise
                refused[error.path] = error.reason


def candidates_of(request: AverageRequest) -> tuple[Candidate, ...]:
    """List the candidates of one format: that of the first pattern which any file matches."""
    for pattern in request.patterns:
        found = list_candidates(request.directory, (pattern,), request.output_name)
        if found:
            return found
    return ()


def _select(request: AverageRequest, refused: dict[Path, str]) -> Selection:
    candidates = candidates_of(request)
    selection = select(candidates, request.count, request.steps, refused)
    needed = min(request.minimum, request.count)
    if len(selection.chosen) < needed:
        selection.close()
        raise TooFewCheckpoints(
            _too_few(request, needed, len(selection.chosen), selection.skipped),
            tuple(selection.skipped),
        )
    return selection


def _too_few(request: AverageRequest, needed: int, found: int, skipped: Sequence[Skipped]) -> str:
    patterns = ", ".join(request.patterns)
    message = (
        f"{request.directory}: {found} usable checkpoints match {patterns}, {needed} are needed"
    )
    reasons = "; ".join(f"{entry.name}: {entry.reason}" for entry in skipped)
    return f"{message}; skipped {reasons}" if reasons else message


def _weights(request: AverageRequest, selection: Selection) -> tuple[float, ...]:
    steps = [entry.step for entry in selection.chosen]
    return weights(request.method, steps, decay=request.decay)


def _output_path(request: AverageRequest, format_name: str) -> Path:
    """Place the output; a suffix that belongs to another format is exchanged."""
    name = request.output_name
    own = _format(format_name)
    of_name = format_of(name)
    if of_name is not None and of_name.name != own.name:
        name = str(PurePath(name).with_suffix(own.suffixes[0]))
    return request.directory / name


def _format(name: str) -> CheckpointFormat:
    return next(entry for entry in FORMATS if entry.name == name)


def _is_current(request: AverageRequest, output: Path, selection: Selection) -> bool:
    known = read_provenance(output)
    identities = [
        (
            entry.checkpoint.name,
            entry.checkpoint.source.identity.nbytes,
            entry.checkpoint.source.identity.mtime_ns,
        )
        for entry in selection.chosen
    ]  # fmt: skip - one line per part
    return known is not None and describes(known, output, request.method, identities)


def _publish(
    request: AverageRequest,
    selection: Selection,
    output: Path,
    started: float,
    progress: Progress | None,
) -> Provenance:
    checkpoints = [entry.checkpoint for entry in selection.chosen]
    template = checkpoints[-1]
    chosen_weights = _weights(request, selection)
    checkpoint_format = _format(template.format)
    layout = checkpoint_format.layout(template)
    sweep(output.parent)
    with Publication(output, layout.nbytes, template.source.status) as publication:
        for offset, literal in layout.literals:
            publication.write(offset, literal)
        averaged = average(
            checkpoints,
            chosen_weights,
            layout.records,
            publication.descriptor,
            num_threads=request.num_threads,
            progress=progress,
        )
        for offset, sealed in checkpoint_format.seal(template, averaged.output):
            publication.write(offset, sealed)
        publication.sync()
        digest = _read_back(checkpoint_format, publication.temporary, averaged)
        for checkpoint in checkpoints:
            checkpoint.source.require_unchanged()
        publication.commit()
    provenance = _provenance(
        request, selection, chosen_weights, averaged, (output, layout, digest, started)
    )
    json_path = output.with_name(provenance_name(output.name))
    publish_json(json_path, provenance.to_json(), template.source.status)
    return provenance


def _read_back(checkpoint_format: CheckpointFormat, path: Path, averaged: Averaged) -> str:
    """Read the output as any reader would, and compare every CRC with what was written."""
    source = SourceFile(path)
    try:
        written = checkpoint_format.describe(source)
        block = memoryview(bytearray(BLOCK_BYTES))
        crcs = {key: record_crc(record, block) for key, record in written.records.items()}
        if crcs != averaged.output:
            raise OutputError(f"{path.parent}: what was written reads back differently")
        return content_digest(written, crcs)
    except CheckpointRefused as error:
        raise OutputError(f"{path.parent}: the average does not read back: {error}") from error
    finally:
        source.close()


def _provenance(
    request: AverageRequest,
    selection: Selection,
    chosen_weights: Sequence[float],
    averaged: Averaged,
    written: tuple[Path, OutputLayout, str, float],
) -> Provenance:
    output, layout, digest, started = written
    sources = tuple(
        SourceRecord(
            name=entry.checkpoint.name,
            step=entry.step,
            bytes=entry.checkpoint.source.nbytes,
            mtime_ns=entry.checkpoint.source.identity.mtime_ns,
            digest=content_digest(entry.checkpoint, crcs),
            verified=all(r.crc32 is not None for r in entry.checkpoint.records.values()),
            weight=weight,
        )
        for entry, weight, crcs in zip(
            selection.chosen, chosen_weights, averaged.sources, strict=True
        )
    )
    now = dt.datetime.now(tz=dt.UTC)
    return Provenance(
        output=output.name,
        output_bytes=layout.nbytes,
        output_digest=digest,
        format=selection.chosen[-1].checkpoint.format,
        method=request.method,
        step=selection.chosen[-1].step,
        sources=sources,
        skipped=tuple(selection.skipped),
        dropped=layout.dropped,
        seconds=round(time.perf_counter() - started, 3),
        created=now.isoformat(timespec="seconds"),
        version=version("trackside"),
    )
