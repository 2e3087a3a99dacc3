"""Write the average of chosen checkpoints, read it back, and publish it with its provenance."""

import datetime as dt
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from tracksided.checkpoints.arithmetic import BLOCK_BYTES
from tracksided.checkpoints.averaging import Averaged, Progress, average, record_crc
from tracksided.checkpoints.content import content_digest
from tracksided.checkpoints.formats.base import (
    Checkpoint,
    CheckpointFormat,
    OutputFile,
    OutputLayout,
)
from tracksided.checkpoints.formats.catalog import describe_as, format_named
from tracksided.checkpoints.naming import DIRECTORY_PROVENANCE, provenance_name
from tracksided.checkpoints.policy import BestBy
from tracksided.checkpoints.provenance import Provenance, SourceRecord, is_own_output
from tracksided.checkpoints.publish import Publication, commit_together, encode_json, sweep
from tracksided.checkpoints.publish_directory import DirectoryPublication
from tracksided.checkpoints.selection import Selection
from tracksided.checkpoints.source import SourceDirectory, SourceFile
from tracksided.checkpoints.writeback import write_all
from tracksided.errors import CheckpointRefused, OutputError


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What is written where."""

    selection: Selection
    weights: Sequence[float]
    """One per chosen checkpoint, oldest first."""

    method: str
    best: BestBy | None
    """What the selection was chosen by, where that was a metric."""

    output: Path
    num_threads: int
    started: float
    """`time.perf_counter` when the work began."""


def publish_average(task: Task, progress: Progress | None) -> Provenance:
    """Average the selection into the output, whole or not at all.

    Raises:
        SourceRefused: a source turned out unusable.
        CheckpointError: the sources cannot be averaged with each other.
        OutputError: the output cannot be written; the previous one stays.
    """
    checkpoints = [entry.checkpoint for entry in task.selection.chosen]
    template = checkpoints[-1]
    checkpoint_format = format_named(template.format)
    layout = checkpoint_format.layout(template)
    sweep(task.output.parent)
    like = template.sources[0].status
    with _open_publication(task.output, layout) as publication:
        averaged = _write(task, checkpoint_format, layout, publication.descriptors, progress)
        publication.sync()
        digest = _read_back(publication.temporary, template.format, averaged)
        _require_unchanged(checkpoints, layout)
        provenance = _provenance(task, averaged, layout, digest)
        _commit(publication, encode_json(provenance.to_json()), like)
    return provenance


def _open_publication(output: Path, layout: OutputLayout) -> Publication | DirectoryPublication:
    if layout.directory_like is None:
        return Publication(output, layout.nbytes, layout.files[0].like)
    is_foreign = output.is_symlink() or (output.exists() and not is_own_output(output))
    if is_foreign:
        raise OutputError(
            f"{output}: exists and is no average of trackside; move it, or choose another name"
        )
    return DirectoryPublication(output, layout.files, layout.directory_like)


def _commit(
    publication: Publication | DirectoryPublication, provenance: bytes, like: os.stat_result
) -> None:
    """Publish the average together with its provenance."""
    if isinstance(publication, DirectoryPublication):
        file = OutputFile(DIRECTORY_PROVENANCE, len(provenance), like)
        write_all(publication.add(file), provenance, 0)
        publication.commit()
        return
    path = publication.path.with_name(provenance_name(publication.path.name))
    with Publication(path, len(provenance), like) as beside:
        write_all(beside.descriptor, provenance, 0)
        commit_together((publication, beside))


def _write(
    task: Task,
    checkpoint_format: CheckpointFormat,
    layout: OutputLayout,
    descriptors: Sequence[int],
    progress: Progress | None,
) -> Averaged:
    checkpoints = [entry.checkpoint for entry in task.selection.chosen]
    for descriptor, file in zip(descriptors, layout.files, strict=True):
        for offset, literal in file.literals:
            write_all(descriptor, literal, offset)
        for offset, source in file.copied:
            _copy(source, descriptor, offset)
    averaged = average(
        checkpoints,
        task.weights,
        layout.records,
        descriptors,
        num_threads=task.num_threads,
        progress=progress,
    )
    for patch in checkpoint_format.seal(checkpoints[-1], averaged.output):
        write_all(descriptors[patch.file], patch.content, patch.offset)
    return averaged


def _require_unchanged(checkpoints: Sequence[Checkpoint], layout: OutputLayout) -> None:
    """Refuse a source that was written to while it was read, with what goes along with it."""
    for checkpoint in checkpoints:
        for source in checkpoint.sources:
            source.require_unchanged()
    for file in layout.files:
        for _, source in file.copied:
            source.require_unchanged()


def _copy(source: SourceFile, descriptor: int, offset: int) -> None:
    for start in range(0, source.nbytes, BLOCK_BYTES):
        block = source.read(start, min(BLOCK_BYTES, source.nbytes - start))
        write_all(descriptor, block, offset + start)


def _read_back(path: Path, format_name: str, averaged: Averaged) -> str:
    """Read the output as any reader would, and compare every CRC with what was written."""
    source = SourceDirectory(path) if path.is_dir() else SourceFile(path)
    try:
        written = describe_as(format_name, source)
        block = memoryview(bytearray(BLOCK_BYTES))
        crcs = {key: record_crc(record, block) for key, record in written.records.items()}
        if crcs != averaged.output:
            raise OutputError(f"{path.parent}: what was written reads back differently")
        return content_digest(written, crcs)
    except CheckpointRefused as error:
        raise OutputError(f"{path.parent}: the average does not read back: {error}") from error
    finally:
        source.close()


def _provenance(task: Task, averaged: Averaged, layout: OutputLayout, digest: str) -> Provenance:
    chosen = task.selection.chosen
    sources = tuple(
        SourceRecord(
            name=entry.checkpoint.name,
            step=entry.step,
            bytes=entry.checkpoint.nbytes,
            mtime_ns=entry.checkpoint.mtime_ns,
            digest=content_digest(entry.checkpoint, crcs),
            verified=all(r.crc32 is not None for r in entry.checkpoint.records.values()),
            weight=weight,
            metric=entry.metric,
        )
        for entry, weight, crcs in zip(chosen, task.weights, averaged.sources, strict=True)
    )
    now = dt.datetime.now(tz=dt.UTC)
    return Provenance(
        output=task.output.name,
        output_bytes=layout.nbytes,
        output_digest=digest,
        format=chosen[-1].checkpoint.format,
        method=task.method,
        best=task.best,
        step=chosen[-1].step,
        sources=sources,
        skipped=tuple(task.selection.skipped),
        dropped=layout.dropped,
        seconds=round(time.perf_counter() - task.started, 3),
        created=now.isoformat(timespec="seconds"),
        version=version("trackside"),
    )
