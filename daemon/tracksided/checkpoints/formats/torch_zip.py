"""Checkpoints that torch.save writes: a zip of one pickle and one record per storage."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass

from isal import isal_zlib

from tracksided.checkpoints.dtypes import DTYPES
from tracksided.checkpoints.formats.base import (
    Checkpoint,
    OutputFile,
    OutputLayout,
    Patch,
    Place,
    Record,
    TensorEntry,
)
from tracksided.checkpoints.formats.pickle_writer import write_pickle
from tracksided.checkpoints.formats.torch_archive import (
    MARK,
    ROOT_PICKLE,
    Archive,
    FindModel,
    read_archive,
)
from tracksided.checkpoints.formats.torch_beside import MAX_CARRIED_BYTES
from tracksided.checkpoints.formats.torch_entries import find_model, tensor_itself
from tracksided.checkpoints.formats.torch_metrics import stated_metrics
from tracksided.checkpoints.formats.torch_tensors import (
    Storage,
    TensorView,
    model_tensors,
    storages_below,
)
from tracksided.checkpoints.formats.zip_container import (
    PlacedRecord,
    directory,
    local_header,
    place_records,
)
from tracksided.checkpoints.refusals import refused_as
from tracksided.checkpoints.source import SourceFile

# Chunks of distributed checkpoints are tensors of their own, with some 300 bytes of pickle each.
_MAX_HELD_PICKLE_BYTES = 4096

_MARK_BODY = b"1"


@dataclass(frozen=True, slots=True)
class _Template:
    """How to get at the archive again: a large one is not held, since there are many sources."""

    source: SourceFile
    find: FindModel
    archive: Archive | None
    """None where it is to be read again."""

    pickle_crc32: int


class TorchZip:
    """`.pt`, `.pth` and `.ckpt` of torch 1.6 and later."""

    name = "torch"
    suffixes = (".pt", ".pth", ".ckpt", ".pth.tar", ".pt.tar")

    def describe(self, source: SourceFile) -> Checkpoint:
        """Read the zip directory and the pickle; see `FileFormat.describe`."""
        return _describe_as(source, find_model)

    def describe_tensor(self, source: SourceFile) -> Checkpoint:
        """Read what was saved as a tensor of its own; its name is empty.

        Raises:
            SourceRefused: it is something else, incomplete or not sane.
        """
        return _describe_as(source, tensor_itself)

    def layout(self, template: Checkpoint) -> OutputLayout:
        """Lay out an archive like the template's, without the optimizer's state."""
        plan = _plan(template)
        literals = [
            (record.offset, plan.literal_bytes[record.name])
            for record in plan.placed
            if record.name in plan.literal_bytes
        ]
        offsets = {record.name: record.offset for record in plan.placed}
        end = plan.directory_at + len(directory(plan.placed, (0,) * len(plan.placed), 0))
        (source,) = template.sources
        return OutputLayout(
            files=(OutputFile("", end, source.status, tuple(literals)),),
            records={key: Place(0, offsets[name]) for key, name in plan.averaged.items()},
            dropped=plan.dropped,
        )

    def seal(self, template: Checkpoint, crcs: Mapping[str, int]) -> tuple[Patch, ...]:
        """Write all headers and the directory, now that the CRCs are known."""
        plan = _plan(template)
        by_name = {name: isal_zlib.crc32(body) for name, body in plan.literal_bytes.items()}
        by_name |= {name: crcs[key] for key, name in plan.averaged.items()}
        ordered = tuple(by_name[record.name] for record in plan.placed)
        headers = [
            Patch(0, record.header_at, local_header(record, crc))
            for record, crc in zip(plan.placed, ordered, strict=True)
        ]
        end = directory(plan.placed, ordered, plan.directory_at)
        return (*headers, Patch(0, plan.directory_at, end))

    def metrics(self, checkpoint: Checkpoint) -> Mapping[str, float]:
        """Read the numbers beside the model; see `CheckpointFormat.metrics`."""
        archive = _archive_of(checkpoint.template_as(_Template))
        storages = archive.storages()

        def read(storage: Storage) -> bytes:
            return archive.read(storages[storage.key], storage.nbytes)

        return stated_metrics(archive.part, checkpoint.name, read)


def _describe_as(source: SourceFile, find: FindModel) -> Checkpoint:
    with refused_as(source):
        archive = read_archive(source, find)
        views = model_tensors(archive.part.node, archive.part.entries)
        storages = archive.storages()
    used = {view.storage.key for view in views.values()}
    is_small = archive.pickle_bytes <= _MAX_HELD_PICKLE_BYTES
    return Checkpoint(
        sources=(source,),
        format=TorchZip.name,
        tensors={name: _entry(view) for name, view in views.items()},
        records={
            sys.intern(key): Record(
                source, found.offset, found.nbytes, found.crc32 if archive.has_crcs else None
            )
            for key, found in storages.items()
            if key in used
        },
        step=archive.part.step,
        template=_Template(source, find, archive if is_small else None, archive.pickle_crc32),
        is_average=archive.is_average,
    )


def _archive_of(template: _Template) -> Archive:
    """Return the archive as it was when the checkpoint was described.

    Raises:
        CheckpointRefused: it is another one by now.
    """
    if template.archive is not None:
        return template.archive
    archive = read_archive(template.source, template.find)
    if archive.pickle_crc32 != template.pickle_crc32:
        raise template.source.refusal("changed while it was being read")
    return archive


def _entry(view: TensorView) -> TensorEntry:
    itemsize = DTYPES[view.dtype].itemsize
    return TensorEntry(
        dtype=view.dtype,
        shape=view.shape,
        strides=view.strides,
        record=sys.intern(view.storage.key),
        start=view.offset * itemsize,
        span=view.span * itemsize,
    )


@dataclass(frozen=True, slots=True)
class _Plan:
    """The archive to be written; names carry the prefix."""

    placed: tuple[PlacedRecord, ...]
    directory_at: int
    literal_bytes: Mapping[str, bytes]
    averaged: Mapping[str, str]
    """Key of each averaged storage to the name of its record."""

    dropped: tuple[str, ...]


def _plan(checkpoint: Checkpoint) -> _Plan:
    """Plan the archive.

    Raises:
        SourceRefused: what would go along is damaged.
    """
    template = checkpoint.template_as(_Template)
    with refused_as(template.source):
        return _planned(checkpoint, _archive_of(template))


def _planned(checkpoint: Checkpoint, archive: Archive) -> _Plan:
    root = archive.part.root
    kept = storages_below(root)
    bodies: dict[str, bytes] = {ROOT_PICKLE: write_pickle(root, archive.pickle.protocol)}
    sizes = [(ROOT_PICKLE, len(bodies[ROOT_PICKLE]))]
    for key, record in archive.storages().items():
        if key in checkpoint.records:
            sizes.append((f"data/{key}", checkpoint.records[key].nbytes))
        elif key in kept:
            bodies[f"data/{key}"] = archive.read(record, MAX_CARRIED_BYTES)
            sizes.append((f"data/{key}", record.nbytes))
    for name, body in (*archive.small_records, (MARK, _MARK_BODY)):
        bodies[name] = body
        sizes.append((name, len(body)))
    prefix = archive.prefix
    placed, directory_at = place_records(tuple((prefix + name, size) for name, size in sizes))
    return _Plan(
        placed,
        directory_at,
        {prefix + name: body for name, body in bodies.items()},
        {key: f"{prefix}data/{key}" for key in checkpoint.records},
        archive.part.dropped,
    )
