"""Write the average of chosen checkpoints, read it back, and publish it with its provenance."""

import datetime as dt
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from isal import isal_zlib

from tracksided.checkpoints.averaging import Averaging, Progress
from tracksided.checkpoints.content import content_digest
from tracksided.checkpoints.formats.base import (
    Checkpoint,
    CheckpointFormat,
    OutputLayout,
)
from tracksided.checkpoints.formats.catalog import describe_as, format_named
from tracksided.checkpoints.policy import BestBy
from tracksided.checkpoints.provenance import Provenance, SourceRecord, stated_crc32
from tracksided.checkpoints.refusals import SourceRefused, refused_as
from tracksided.checkpoints.selection import Selection
from tracksided.checkpoints.shares import Averaged, conclude
from tracksided.checkpoints.source import SourceDirectory, SourceFile
from tracksided.checkpoints.store import Home
from tracksided.checkpoints.workers import Work, Workers
from tracksided.checkpoints.writeback import Target
from tracksided.errors import OutputError


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What is written where."""

    selection: Selection
    weights: Sequence[float]
    """One per chosen checkpoint, oldest first."""

    method: str
    best: BestBy | None
    """What the selection was chosen by, where that was a metric."""

    home: Home
    output: str
    """Its name there."""

    num_threads: int
    started: float
    """`time.perf_counter` when the work began."""


@dataclass(frozen=True, slots=True)
class _Written:
    """What lies under the temporary name."""

    layout: OutputLayout
    averaged: Averaged
    carried: Mapping[str, str]
    """As in `Provenance`."""

    digest: str
    """Of the content."""


def publish_average(task: Task, workers: Workers, progress: Progress | None) -> Provenance:
    """Average the selection into the output, whole or not at all.

    Raises:
        SourceRefused: a source turned out unusable.
        CheckpointError: the sources cannot be averaged with each other.
        OutputError: the output cannot be written; the previous one stays.
    """
    checkpoints = [entry.checkpoint for entry in task.selection.chosen]
    checkpoint_format = format_named(checkpoints[-1].format)
    layout = _layout(checkpoint_format, checkpoints[-1])
    averaging = Averaging(checkpoints, task.weights)
    task.home.store.sweep()
    with task.home.store.prepare(task.output, layout) as output:
        work = Work(
            averaging=averaging,
            places=layout.records,
            targets=output.targets,
            paths=output.paths,
            # What cannot be read back is sent as it is written, from front to back.
            num_threads=task.num_threads if output.paths else 1,
        )
        carried = _write_around(layout, output.targets)
        crcs = workers.write(work, progress)
        averaged = conclude(checkpoints, averaging.jobs, crcs)
        _seal(checkpoint_format, checkpoints[-1], averaged, output.targets)
        output.sync()
        workers.read_back(work, crcs)
        digest = _digest_of(output.whole, work, averaged)
        _require_copied_unchanged(layout)
        written = _Written(layout, averaged, carried, digest)
        provenance = _provenance(task, written, workers.count)
        output.commit(provenance.to_json())
    return provenance


def _layout(checkpoint_format: CheckpointFormat, template: Checkpoint) -> OutputLayout:
    """Lay the output out; a template that cannot be written again loses its place to an older one.

    Raises:
        SourceRefused: it cannot.
    """
    with refused_as(template):
        return checkpoint_format.layout(template)


def _write_around(layout: OutputLayout, targets: Sequence[Target]) -> dict[str, str]:
    """Write what does not depend on the average; return the checksums of files taken over whole."""
    carried: dict[str, str] = {}
    for target, file in zip(targets, layout.files, strict=True):
        for offset, literal in file.literals:
            target.write(literal, offset)
        for offset, source in file.copied:
            crc = 0
            for position, block in source.blocks(0, source.nbytes):
                target.write(block, offset + position)
                crc = isal_zlib.crc32(block, crc)
            if source.nbytes == file.nbytes:
                carried[file.name] = stated_crc32(crc)
    return carried


def _seal(
    checkpoint_format: CheckpointFormat,
    template: Checkpoint,
    averaged: Averaged,
    targets: Sequence[Target],
) -> None:
    with refused_as(template):
        patches = checkpoint_format.seal(template, averaged.output)
    for patch in patches:
        targets[patch.file].write(patch.content, patch.offset)


def _require_copied_unchanged(layout: OutputLayout) -> None:
    """Refuse a file that was written to while it was taken along."""
    for file in layout.files:
        for _, source in file.copied:
            source.require_unchanged()


def _digest_of(path: Path | None, work: Work, averaged: Averaged) -> str:
    """Read the output's structure as any reader would, and digest what it leads to.

    Its tensors must lie where they were written, and were read back already. What cannot be read
    yet is like the template.

    Raises:
        OutputError: it is not sane.
    """
    template = work.averaging.checkpoints[-1]
    if path is None:
        return content_digest(template, averaged.output)
    source = SourceDirectory(path) if path.is_dir() else SourceFile(path)
    try:
        written = describe_as(template.format, source)
        for key, record in written.records.items():
            place = work.places[key]
            found = (record.source.path, record.source.begins_at + record.offset)
            is_there = found == (work.paths[place.file], place.offset)
            if not is_there or record.crc32 not in {None, averaged.output[key]}:
                raise OutputError(f"{path.parent}: what was written reads back differently")
        return content_digest(written, averaged.output)
    except SourceRefused as error:
        raise OutputError(f"{path.parent}: the average does not read back: {error}") from error
    finally:
        source.close()


def _provenance(task: Task, written: _Written, num_ranks: int) -> Provenance:
    chosen, layout = task.selection.chosen, written.layout
    sources = tuple(
        SourceRecord(
            name=entry.checkpoint.name,
            step=entry.step,
            bytes=entry.checkpoint.nbytes,
            mtime_ns=entry.checkpoint.mtime_ns,
            digest=digest_of_source,
            verified=all(r.crc32 is not None for r in entry.checkpoint.records.values()),
            weight=weight,
            metric=entry.metric,
        )
        for entry, weight, digest_of_source in zip(
            chosen, task.weights, written.averaged.sources, strict=True
        )
    )
    now = dt.datetime.now(tz=dt.UTC)
    return Provenance(
        output=task.output,
        sources_in=task.home.sources_in,
        output_bytes=layout.nbytes,
        files=tuple(file.name or task.output for file in layout.files),
        carried=written.carried,
        output_digest=written.digest,
        format=chosen[-1].checkpoint.format,
        method=task.method,
        best=task.best,
        step=chosen[-1].step,
        sources=sources,
        skipped=tuple(task.selection.skipped),
        dropped=layout.dropped,
        ranks=num_ranks,
        seconds=round(time.perf_counter() - task.started, 3),
        created=now.isoformat(timespec="seconds"),
        version=version("trackside"),
    )
