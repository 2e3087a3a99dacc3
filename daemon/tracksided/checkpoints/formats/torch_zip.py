"""Checkpoints that torch.save writes: a zip of one pickle and one record per storage."""

from collections.abc import Callable, Mapping
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
from tracksided.checkpoints.formats.inert_pickle import (
    MAX_PICKLE_BYTES,
    InertPickle,
    read_pickle,
)
from tracksided.checkpoints.formats.pickle_nodes import (
    Node,
)
from tracksided.checkpoints.formats.pickle_writer import write_pickle
from tracksided.checkpoints.formats.torch_entries import (
    MAX_CARRIED_BYTES,
    ModelPart,
    find_model,
    step_of,
    tensor_itself,
    without_training_state,
)
from tracksided.checkpoints.formats.torch_metrics import stated_metrics
from tracksided.checkpoints.formats.torch_tensors import (
    Storage,
    TensorView,
    model_tensors,
    storages_below,
)
from tracksided.checkpoints.formats.zip_container import (
    PlacedRecord,
    ZipRecord,
    directory,
    local_header,
    place_records,
    read_directory,
)
from tracksided.checkpoints.shown import shown
from tracksided.checkpoints.source import SourceFile, SourceRefused
from tracksided.errors import CheckpointRefused

_CHECKED_BYTES = 1 << 20  # at once
MAX_SMALL_RECORD_BYTES = 1 << 20  # version, byteorder and their like have a few bytes

_ROOT_PICKLE = "data.pkl"
# Says that an archive is an average, under any name; loaders skip records they do not know.
_MARK, _MARK_BODY = ".trackside_average", b"1"


@dataclass(frozen=True, slots=True)
class _Template:
    """What an output keeps of a torch zip."""

    prefix: str
    """The archive's name with its slash, in front of every record."""

    small_records: tuple[tuple[str, bytes], ...]
    """(name without prefix, bytes) of everything but the pickle and the storages."""

    pickle: InertPickle
    part: ModelPart
    storages: Mapping[str, ZipRecord]
    source: SourceFile
    has_crcs: bool


class TorchZip:
    """`.pt`, `.pth` and `.ckpt` of torch 1.6 and later."""

    name = "torch"
    suffixes = (".pt", ".pth", ".ckpt")

    def describe(self, source: SourceFile) -> Checkpoint:
        """Read the zip directory and the pickle; see `FileFormat.describe`."""
        return _describe_as(source, find_model)

    def describe_tensor(self, source: SourceFile) -> Checkpoint:
        """Read what was saved as a tensor of its own; its name is empty.

        Raises:
            CheckpointRefused: it is something else, incomplete or not sane.
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
        kept = checkpoint.template_as(_Template)
        has_crcs = kept.has_crcs

        def read(storage: Storage) -> bytes:
            record = kept.storages[storage.key]
            return _read_checked(kept.source, record, storage.nbytes, has_crcs=has_crcs)

        return stated_metrics(kept.part, checkpoint.name, read)


def read_object(source: SourceFile) -> Node:
    """Return the inert node of whatever was saved.

    Raises:
        CheckpointRefused: it is incomplete, corrupt or not sane.
    """
    _require_zip(source)
    _, records = _split_prefix(source, read_directory(source))
    has_crcs = any(record.crc32 for record in records.values())
    pickled = _read_checked(source, records[_ROOT_PICKLE], MAX_PICKLE_BYTES, has_crcs=has_crcs)
    return read_pickle(pickled).root


def require_sound(source: SourceFile) -> None:
    """Compare all that was saved with its CRC-32, where it has any.

    Raises:
        CheckpointRefused: it is incomplete or corrupt.
    """
    _require_zip(source)
    records = read_directory(source)
    has_crcs = any(record.crc32 for record in records)
    for record in records:
        crc = 0
        for start in range(0, record.nbytes, _CHECKED_BYTES):
            part = source.read(record.offset + start, min(_CHECKED_BYTES, record.nbytes - start))
            crc = isal_zlib.crc32(part, crc)
        if has_crcs and crc != record.crc32:
            raise source.refusal(
                f"record {shown(record.name)} is corrupt: its CRC-32 does not match"
            )


def _describe_as(source: SourceFile, find: Callable[[Node], ModelPart]) -> Checkpoint:
    _require_zip(source)
    archive = _split_prefix(source, read_directory(source))
    try:
        return _describe(source, archive, find)
    except CheckpointRefused as error:
        if str(error).startswith(source.name):
            raise
        raise CheckpointRefused(f"{source.name}: {error}") from error


def _require_zip(source: SourceFile) -> None:
    head = source.read(0, min(8, source.nbytes))
    if head.startswith(b"PK\x03\x04"):
        return
    if not head:
        raise CheckpointRefused(f"{source.name}: empty")
    if head.startswith((b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")):
        raise CheckpointRefused(
            f"{source.name}: a legacy pickle without zip; load it and save it again with "
            "torch.save of torch 1.6 or later"
        )
    raise CheckpointRefused(f"{source.name}: not a zip file of torch.save")


def _split_prefix(
    source: SourceFile, records: tuple[ZipRecord, ...]
) -> tuple[str, dict[str, ZipRecord]]:
    prefix = records[0].name.partition("/")[0] + "/" if records else ""
    if any(not record.name.startswith(prefix) for record in records):
        raise CheckpointRefused(f"{source.name}: its records lie in more than one folder")
    archive = {record.name.removeprefix(prefix): record for record in records}
    if "constants.pkl" in archive or any(name.startswith("code/") for name in archive):
        raise CheckpointRefused(f"{source.name}: a TorchScript archive, not a state dict")
    packed = next((record.name for record in records if not record.is_stored), None)
    if packed is not None:
        raise CheckpointRefused(f"{source.name}: record {shown(packed)} is compressed or encrypted")
    if _ROOT_PICKLE not in archive:
        raise CheckpointRefused(f"{source.name}: a zip file without {_ROOT_PICKLE}")
    return prefix, archive


def _describe(
    source: SourceFile,
    archive: tuple[str, dict[str, ZipRecord]],
    find: Callable[[Node], ModelPart],
) -> Checkpoint:
    prefix, records = archive
    # set_crc32_options(False) stores zero everywhere; then there is nothing to check.
    has_crcs = any(record.crc32 for record in records.values())
    small = tuple(
        (name, _read_checked(source, record, MAX_SMALL_RECORD_BYTES, has_crcs=has_crcs))
        for name, record in records.items()
        if name != _ROOT_PICKLE and not name.startswith("data/")
    )
    if dict(small).get("byteorder", b"little") != b"little":
        raise CheckpointRefused("it was written on a big-endian machine")
    pickled = _read_checked(source, records[_ROOT_PICKLE], MAX_PICKLE_BYTES, has_crcs=has_crcs)
    pickle = read_pickle(pickled)
    part = find(pickle.root)
    without_training_state(part)  # what speaks against that is said before anything is averaged
    views = model_tensors(part.node, part.entries)
    storages = _storage_records(pickle.root, records)
    used = {view.storage.key for view in views.values()}
    return Checkpoint(
        sources=(source,),
        format=TorchZip.name,
        tensors={name: _entry(view) for name, view in views.items()},
        records={
            key: Record(source, found.offset, found.nbytes, found.crc32 if has_crcs else None)
            for key, found in storages.items()
            if key in used
        },
        step=step_of(pickle.root),
        template=_Template(prefix, small, pickle, part, storages, source, has_crcs),
        is_average=_MARK in records,
    )


def _read_checked(source: SourceFile, record: ZipRecord, limit: int, *, has_crcs: bool) -> bytes:
    if record.nbytes > limit:
        raise CheckpointRefused(
            f"record {shown(record.name)} has {record.nbytes} bytes, "
            f"more than the {limit} read here"
        )
    body = source.read(record.offset, record.nbytes)
    if has_crcs and isal_zlib.crc32(body) != record.crc32:
        raise CheckpointRefused(
            f"record {shown(record.name)} is corrupt: its CRC-32 does not match"
        )
    return body


def _storage_records(root: Node, records: Mapping[str, ZipRecord]) -> dict[str, ZipRecord]:
    """Match every storage of the pickle with its record."""
    found: dict[str, ZipRecord] = {}
    for key, storage in storages_below(root).items():
        record = records.get(f"data/{key}")
        if record is None or record.nbytes != storage.nbytes:
            size = "none" if record is None else f"one of {record.nbytes}"
            raise CheckpointRefused(
                f"storage {shown(key)} needs {storage.nbytes} bytes, found {size}"
            )
        found[key] = record
    return found


def _entry(view: TensorView) -> TensorEntry:
    itemsize = DTYPES[view.dtype].itemsize
    return TensorEntry(
        dtype=view.dtype,
        shape=view.shape,
        strides=view.strides,
        record=view.storage.key,
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
    try:
        return _planned(checkpoint, template)
    except SourceRefused:
        raise
    except CheckpointRefused as error:
        raise template.source.refusal(str(error)) from error


def _planned(checkpoint: Checkpoint, template: _Template) -> _Plan:
    root, dropped = without_training_state(template.part)
    kept = storages_below(root)
    bodies: dict[str, bytes] = {_ROOT_PICKLE: write_pickle(root, template.pickle.protocol)}
    sizes = [(_ROOT_PICKLE, len(bodies[_ROOT_PICKLE]))]
    for key in template.storages:
        if key in checkpoint.records:
            sizes.append((f"data/{key}", checkpoint.records[key].nbytes))
        elif key in kept:
            record = template.storages[key]
            body = _read_checked(
                template.source, record, MAX_CARRIED_BYTES, has_crcs=template.has_crcs
            )
            bodies[f"data/{key}"] = body
            sizes.append((f"data/{key}", record.nbytes))
    for name, body in (*template.small_records, (_MARK, _MARK_BODY)):
        bodies[name] = body
        sizes.append((name, len(body)))
    prefix = template.prefix
    placed, directory_at = place_records(tuple((prefix + name, size) for name, size in sizes))
    return _Plan(
        placed,
        directory_at,
        {prefix + name: body for name, body in bodies.items()},
        {key: f"{prefix}data/{key}" for key in checkpoint.records},
        dropped,
    )
