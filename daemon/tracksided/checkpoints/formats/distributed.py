"""Directories of torch.distributed.checkpoint: `.metadata` and `__r_n.distcp` files.

A `.distcp` file is a row of items, each what torch.save writes: chunks of tensors and small
objects. The output has the same files with the same items, without those of the optimizer.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from tracksided.checkpoints.formats.base import (
    Checkpoint,
    OutputFile,
    OutputLayout,
    Patch,
    Place,
    Record,
    TensorEntry,
)
from tracksided.checkpoints.formats.carried import carried_files
from tracksided.checkpoints.formats.distributed_metadata import (
    LIGHTNING_STATE,
    METADATA,
    DistributedMetadata,
    Item,
    read_metadata,
    write_metadata,
)
from tracksided.checkpoints.formats.inert_pickle import MAX_PICKLE_BYTES
from tracksided.checkpoints.formats.torch_archive import read_object, require_sound
from tracksided.checkpoints.formats.torch_steps import STEP_KEYS
from tracksided.checkpoints.formats.torch_zip import TorchZip
from tracksided.checkpoints.formats.training_state import is_training_state
from tracksided.checkpoints.formats.unread import unread_kind
from tracksided.checkpoints.numbers import MAX_COUNT
from tracksided.checkpoints.refusals import refused_as
from tracksided.checkpoints.shown import shown
from tracksided.checkpoints.source import SourceDirectory, SourceFile
from tracksided.checkpoints.source_window import SourceWindow

_SUFFIX = ".distcp"
_OPTIMIZER = re.compile(r"optim(izer)?s?([_-].*)?", re.IGNORECASE)
_SAFETENSORS_PREFIX_BYTES = 9  # length of the header, 8 bytes, and its first brace
_NESTED = 2  # keys in which an application wraps model and optimizer: app.optim.state


@dataclass(frozen=True, slots=True)
class _Template:
    """The directory; the heads of its items are read again for the output, to hold less."""

    directory: SourceDirectory
    items: tuple[Item, ...]
    """Those that are kept."""

    carried: tuple[SourceFile, ...]
    left_out: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Laid:
    """An item of the output."""

    item: Item
    offset: int
    nbytes: int


class DistributedCheckpoint:
    """Directories that torch.distributed.checkpoint.save writes."""

    name = "dcp"

    def is_part(self, name: str) -> bool:
        """Whether a name is that of the metadata or of a file of items."""
        return name == METADATA or name.endswith(_SUFFIX)

    def looks_finished(self, names: Collection[str]) -> bool:
        """Whether the metadata is there."""
        return METADATA in names

    def describe(self, directory: SourceDirectory) -> Checkpoint:
        """Read the metadata and the head of each item; see `DirectoryFormat.describe`."""
        metadata = _read(directory)
        tensors: dict[str, TensorEntry] = {}
        records: dict[str, Record] = {}
        files: dict[str, SourceFile] = {}
        _require_complete(directory, metadata)
        kept = tuple(item for item in metadata.items if not _is_training_state(item))
        for item in kept:
            files[item.file] = directory.open(item.file)
            if item.shape is None:
                continue
            if item.key in tensors:
                raise directory.refusal(f"two chunks are called {shown(item.key)}")
            entry, record = _tensor(directory, item)
            tensors[item.key] = replace(entry, record=item.key)
            if record is not None:
                records[item.key] = record
        if not tensors:
            raise directory.refusal("holds no tensors besides the optimizer's")
        used = {item.file for item in metadata.items}
        carried = carried_files(directory, used, frozenset({LIGHTNING_STATE}))
        return Checkpoint(
            sources=tuple(files.values()),
            format=self.name,
            tensors=tensors,
            records=records,
            step=_step(directory, metadata),
            template=_Template(
                directory, kept, carried.files, (*_left_out(metadata), *carried.left_out)
            ),
        )

    def layout(self, template: Checkpoint) -> OutputLayout:
        """Lay the kept items out in their files, one after the other, and write the metadata."""
        kept = template.template_as(_Template)
        files: list[OutputFile] = []
        places: dict[str, Place] = {}
        laid: list[_Laid] = []
        for name, items in _by_file(kept.items).items():
            files.append(_lay(kept.directory, (len(files), name), items, places, laid))
        encoded = write_metadata(
            _read(kept.directory),
            {entry.item.name for entry in laid},
            {(e.item.name, e.item.chunk): (e.offset, e.nbytes) for e in laid},
        )
        for source in kept.carried:
            if source.path.name == LIGHTNING_STATE:
                with refused_as(source):
                    require_sound(source)
        source = kept.directory.open(METADATA)
        files.append(OutputFile(METADATA, len(encoded), source.status, ((0, encoded),)))
        files += [
            OutputFile(source.path.name, source.nbytes, source.status, copied=((0, source),))
            for source in kept.carried
        ]
        return OutputLayout(tuple(files), places, kept.directory.status, kept.left_out)

    def seal(self, template: Checkpoint, crcs: Mapping[str, int]) -> tuple[Patch, ...]:
        """Seal every item with the CRC-32 of its tensor."""
        kept = template.template_as(_Template)
        patches: list[Patch] = []
        for number, items in enumerate(_by_file(kept.items).values()):
            position = 0
            for item in items:
                window = _window(kept.directory, item)
                if item.shape is None:
                    position += window.nbytes
                    continue
                content = TorchZip().describe_tensor(window)
                found = dict.fromkeys(content.records, crcs.get(item.key, 0))
                patches += [
                    Patch(number, position + patch.offset, patch.content)
                    for patch in TorchZip().seal(content, found)
                ]
                position += TorchZip().layout(content).nbytes
        return tuple(patches)

    def metrics(self, checkpoint: Checkpoint) -> Mapping[str, float]:
        """Nothing: the objects beside the tensors belong to the application."""
        del checkpoint
        return {}


def _read(directory: SourceDirectory) -> DistributedMetadata:
    if METADATA not in directory.names:
        raise directory.refusal(
            unread_kind(directory.names)
            or f"no {METADATA}, which is written last: incomplete, or still written"
        )
    source = directory.open(METADATA)
    pickled = source.read_whole(MAX_PICKLE_BYTES)
    with refused_as(directory):
        return read_metadata(pickled)


def _require_complete(directory: SourceDirectory, metadata: DistributedMetadata) -> None:
    """Refuse items outside of their files, the optimizer's too, and items that overlap.

    In a file of safetensors all of them are said to begin where it does.
    """
    ends: dict[str, int] = {}
    of_torch: set[str] = set()
    for item in sorted(metadata.items, key=lambda item: (item.file, item.offset)):
        if not item.file.endswith(_SUFFIX):
            raise directory.refusal(f"{METADATA} names {shown(item.file)}, no {_SUFFIX} file")
        window = _window(directory, item)
        is_new_tensor = item.shape is not None and item.file not in of_torch
        if is_new_tensor and _is_safetensors(directory.open(item.file), item.offset):
            raise window.refusal(
                "is stored as safetensors, which is not read here within "
                f"{_SUFFIX} files; save with SerializationFormat.TORCH_SAVE, which is the default"
            )
        if is_new_tensor:
            of_torch.add(item.file)
        if item.offset < ends.get(item.file, 0):
            raise window.refusal("overlaps another item")
        ends[item.file] = item.offset + item.nbytes


def _is_safetensors(file: SourceFile, offset: int) -> bool:
    nbytes = min(_SAFETENSORS_PREFIX_BYTES, file.nbytes - offset)
    return file.read(offset, nbytes)[-1:] == b"{" and nbytes == _SAFETENSORS_PREFIX_BYTES


def _is_training_state(item: Item) -> bool:
    if is_training_state(item.path[0]) and len(item.path) > 1:
        return True
    nested = item.path if len(item.path) > 1 else tuple(item.name.split("."))
    around = nested[:-1][:_NESTED]  # the last key is the tensor's own
    return any(_OPTIMIZER.fullmatch(key) for key in around)


def _left_out(metadata: DistributedMetadata) -> tuple[str, ...]:
    """Name the outermost keys of what is left out, once each."""
    names = [item.path[0].partition(".")[0] for item in metadata.items if _is_training_state(item)]
    return tuple(dict.fromkeys(names))


def _by_file(kept: Sequence[Item]) -> dict[str, list[Item]]:
    """Group items; files in the order of their names, items in that of their bytes."""
    grouped: dict[str, list[Item]] = {}
    for item in sorted(kept, key=lambda item: (item.file, item.offset)):
        grouped.setdefault(item.file, []).append(item)
    return grouped


def _window(directory: SourceDirectory, item: Item) -> SourceWindow:
    return SourceWindow(directory.open(item.file), item.offset, item.nbytes, shown(item.key))


def _tensor(directory: SourceDirectory, item: Item) -> tuple[TensorEntry, Record | None]:
    window = _window(directory, item)
    content = TorchZip().describe_tensor(window)
    (entry,) = content.tensors.values()
    if entry.shape != item.shape:
        raise window.refusal(f"has shape {entry.shape}, {METADATA} says {item.shape}")
    return entry, next(iter(content.records.values()), None)


def _step(directory: SourceDirectory, metadata: DistributedMetadata) -> int | None:
    """Return the step where it was saved as a number under a name that says so."""
    for item in metadata.items:
        if item.shape is None and item.path[-1] in STEP_KEYS and len(item.path) == 1:
            window = _window(directory, item)
            with refused_as(window):
                value = read_object(window)
            if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
                if value >= MAX_COUNT:
                    raise directory.refusal(f"its {item.path[-1]} is 2**62 or more, no step is")
                return value
    return None


def _lay(
    directory: SourceDirectory,
    file: tuple[int, str],
    items: list[Item],
    places: dict[str, Place],
    laid: list[_Laid],
) -> OutputFile:
    """Lay out one file, and note where its records and items go."""
    number, name = file
    position = 0
    literals: list[tuple[int, bytes]] = []
    copied: list[tuple[int, SourceFile]] = []
    for item in items:
        window = _window(directory, item)
        nbytes = window.nbytes
        if item.shape is None:
            with refused_as(window):
                require_sound(window)
            copied.append((position, window))
        else:
            layout = TorchZip().layout(TorchZip().describe_tensor(window))
            literals += [(position + at, body) for at, body in layout.files[0].literals]
            for place in layout.records.values():
                places[item.key] = Place(number, position + place.offset)
            nbytes = layout.nbytes
        laid.append(_Laid(item, position, nbytes))
        position += nbytes
    status = directory.open(name).status
    return OutputFile(name, position, status, tuple(literals), tuple(copied))
