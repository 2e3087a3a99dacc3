"""Hugging Face directories: weights in one file or in shards with an index, and what goes along.

The weights are safetensors or torch zips, or lie in directories of their own; this file only knows
which of them belong together.
"""

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

from tracksided.checkpoints.formats.base import (
    Checkpoint,
    CheckpointFormat,
    DirectoryFormat,
    FileFormat,
    OutputFile,
    OutputLayout,
    Patch,
    Place,
    Record,
    TensorEntry,
)
from tracksided.checkpoints.formats.carried import carried_files
from tracksided.checkpoints.formats.distributed import DistributedCheckpoint
from tracksided.checkpoints.formats.nested import ACCELERATE_STATE, Nested, nested_directories
from tracksided.checkpoints.formats.safetensors import Safetensors
from tracksided.checkpoints.formats.torch_zip import TorchZip
from tracksided.checkpoints.formats.trainer_logs import logged_metrics
from tracksided.checkpoints.formats.trainer_state import TRAINER_STATE, trainer_step
from tracksided.checkpoints.formats.weight_names import (
    INDEX_SUFFIX,
    WeightGroup,
    holds_first_model,
    is_name_of_shards,
    is_weight_name,
    missing_model,
    weight_groups,
)
from tracksided.checkpoints.json_source import parse_json
from tracksided.checkpoints.refusals import refused_as
from tracksided.checkpoints.shown import shown
from tracksided.checkpoints.source import SourceDirectory, SourceFile

MAX_INDEX_BYTES = 64 << 20  # a million tensors need less
MAX_INDEX_CONTAINERS = 10_000  # three, but names may hold brackets


@dataclass(frozen=True, slots=True)
class _Part:
    """One file or directory of weights."""

    name: str
    format: CheckpointFormat
    content: Checkpoint
    is_apart: bool
    """As in `WeightGroup`; directories always are."""

    is_directory: bool = False

    @property
    def num_files(self) -> int:
        """Number of files in the output."""
        return len(self.format.layout(self.content).files) if self.is_directory else 1

    def path(self, file: str) -> str:
        """Return where a file of its layout is in the output."""
        return f"{self.name}/{file}" if self.is_directory else self.name

    def key(self, tensor: str) -> str:
        """Return the key of one of its tensors in the whole checkpoint."""
        return f"{self.name}:{tensor}" if self.is_apart else tensor


@dataclass(frozen=True, slots=True)
class _Index:
    """The index of shards, kept as it is."""

    source: SourceFile
    weight_map: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class _Template:
    path: Path
    directory_status: os.stat_result
    parts: tuple[_Part, ...]
    copied: tuple[SourceFile, ...]
    left_out: tuple[str, ...]
    trainer_state: SourceFile | None


class HuggingFace:
    """`checkpoint-N/` of the Trainer, and everything that `save_pretrained` writes."""

    name = "huggingface"

    def is_part(self, name: str) -> bool:
        """Whether a name is that of weights, of a shard or of an index."""
        return is_weight_name(name)

    def looks_finished(self, names: Collection[str]) -> bool:
        """Whether there is what follows shards or models in directories, or a single file."""
        return holds_first_model(names) or ACCELERATE_STATE in names

    def describe(self, directory: SourceDirectory) -> Checkpoint:
        """Read all weights, check them against their index; see `DirectoryFormat.describe`."""
        parts: list[_Part] = []
        indexes: list[SourceFile] = []
        missing = missing_model(directory.names)
        if missing is not None:
            raise directory.refusal(f"lacks {missing[0]}, whose model comes before {missing[1]}")
        for group in weight_groups(directory.names):
            _read_group(directory, group, parts, indexes)
        parts += _shards(directory)
        if not parts and any(is_weight_name(name) for name in directory.names):
            raise directory.refusal("its shards have no index: incomplete, or still being written")
        nested = self._nested(directory, has_weights=bool(parts))
        parts += [_directory_part(self, inside) for inside in nested.weights]
        if not parts:
            raise directory.refusal(
                "holds no weights that are read here, nor do directories in it, which are looked "
                "into in file systems only"
            )
        tensors, records = _put_together(directory, parts)
        used = {part.name for part in parts} | {index.path.name for index in indexes}
        used |= set(nested.names)
        carried = carried_files(directory, used)
        has_state = TRAINER_STATE in directory.names
        state = directory.open(TRAINER_STATE) if has_state else None
        return Checkpoint(
            sources=tuple(source for part in parts for source in part.content.sources),
            format=self.name,
            tensors=tensors,
            records=records,
            step=None if state is None else trainer_step(state),
            template=_Template(
                directory.path,
                directory.status,
                tuple(parts),
                (*indexes, *carried.files, *nested.carried),
                carried.left_out,
                state,
            ),
        )

    def layout(self, template: Checkpoint) -> OutputLayout:
        """Lay out every file of weights as its own format does, and take the rest along."""
        kept = template.template_as(_Template)
        files: list[OutputFile] = []
        places: dict[str, Place] = {}
        dropped: list[str] = []
        is_in_order = True
        for part in kept.parts:
            layout, first = part.format.layout(part.content), len(files)
            files += [replace(file, name=part.path(file.name)) for file in layout.files]
            is_in_order = is_in_order and layout.is_in_order
            dropped += [f"{part.name}: {entry}" for entry in layout.dropped]
            for key, place in layout.records.items():
                places[_record_key(part, key)] = replace(place, file=first + place.file)
        files += [
            OutputFile(
                str(source.path.relative_to(kept.path)),
                source.nbytes,
                source.status,
                copied=((0, source),),
            )
            for source in kept.copied
        ]
        return OutputLayout(
            files=tuple(files),
            records=places,
            directory_like=kept.directory_status,
            dropped=(*dropped, *kept.left_out),
            is_in_order=is_in_order,
        )

    def seal(self, template: Checkpoint, crcs: Mapping[str, int]) -> tuple[Patch, ...]:
        """Seal every file of weights as its own format does."""
        patches: list[Patch] = []
        first = 0
        for part in template.template_as(_Template).parts:
            own = {key: crcs[_record_key(part, key)] for key in part.content.records}
            sealed = part.format.seal(part.content, own)
            patches += [replace(patch, file=first + patch.file) for patch in sealed]
            first += part.num_files
        return tuple(patches)

    def metrics(self, checkpoint: Checkpoint) -> Mapping[str, float]:
        """Read what the Trainer logged at the checkpoint's own step."""
        state = checkpoint.template_as(_Template).trainer_state
        return {} if state is None else logged_metrics(state, checkpoint.step)

    def _nested(self, directory: SourceDirectory, *, has_weights: bool) -> Nested:
        """Open the directories in a checkpoint, but not those in them."""
        if directory.owner != directory.path:
            return Nested((), (), ())

        def holds_weights(names: Collection[str]) -> bool:
            return any(is_weight_name(name) and not is_name_of_shards(name) for name in names)

        return nested_directories(directory, holds_weights, has_weights=has_weights)


def _put_together(
    directory: SourceDirectory, parts: Sequence[_Part]
) -> tuple[dict[str, TensorEntry], dict[str, Record]]:
    """Return the tensors and records of all parts, each under its key in the whole."""
    tensors: dict[str, TensorEntry] = {}
    records: dict[str, Record] = {}
    for part in parts:
        for name, entry in part.content.tensors.items():
            if part.key(name) in tensors:
                raise directory.refusal(f"tensor {shown(name)} is in two files")
            tensors[part.key(name)] = replace(entry, record=_record_key(part, entry.record))
        for key, record in part.content.records.items():
            records[_record_key(part, key)] = record
    return tensors, records


def _record_key(part: _Part, key: str) -> str:
    return f"{part.name}:{key}"


def _directory_part(directory_format: DirectoryFormat, directory: SourceDirectory) -> _Part:
    content = directory_format.describe(directory)
    return _Part(directory.path.name, directory_format, content, is_apart=True, is_directory=True)


def _shards(directory: SourceDirectory) -> list[_Part]:
    """Open what FSDP saved as shards, each model in a directory of its own, and no deeper."""
    if directory.owner != directory.path:
        return []
    return [
        _directory_part(DistributedCheckpoint(), directory.directory(name))
        for name in sorted(filter(is_name_of_shards, directory.names))
    ]


def _read_group(
    directory: SourceDirectory,
    group: WeightGroup,
    parts: list[_Part],
    indexes: list[SourceFile],
) -> None:
    """Open the weights that a loader would take, in its order of preference."""
    for name in group.names:
        is_torch = PurePath(name).suffix == ".bin"
        file_format: FileFormat = TorchZip() if is_torch else Safetensors()
        if name in directory.names:
            parts.append(_part(directory, name, file_format, is_apart=group.is_apart))
            return
        if name + INDEX_SUFFIX in directory.names:
            index = _read_index(directory, name + INDEX_SUFFIX)
            for shard in sorted(set(index.weight_map.values())):
                part = _part(directory, shard, file_format, is_apart=group.is_apart)
                _require_as_indexed(index, part)
                parts.append(part)
            indexes.append(index.source)
            return


def _part(
    directory: SourceDirectory, name: str, file_format: FileFormat, *, is_apart: bool
) -> _Part:
    source = directory.open(name)
    with refused_as(source):
        return _Part(name, file_format, file_format.describe(source), is_apart)


def _read_index(directory: SourceDirectory, name: str) -> _Index:
    source = directory.open(name)
    content = source.read_whole(MAX_INDEX_BYTES)
    if content.count(b"[") + content.count(b"{") > MAX_INDEX_CONTAINERS:
        raise source.refusal("nests lists or objects, where names stand in an index")
    parsed = parse_json(source, content)
    weight_map = parsed.get("weight_map") if isinstance(parsed, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise source.refusal("has no weight_map")
    suffix = PurePath(name.removesuffix(INDEX_SUFFIX)).suffix
    for shard in weight_map.values():
        if not isinstance(shard, str) or not shard.endswith(suffix):
            found = shown(shard) if isinstance(shard, str) else "something else than a text"
            raise source.refusal(f"names {found}, which is no {suffix} file")
    return _Index(source, weight_map)


def _require_as_indexed(index: _Index, part: _Part) -> None:
    announced = {name for name, shard in index.weight_map.items() if shard == part.name}
    missing = sorted(announced - part.content.tensors.keys())
    if missing:
        raise index.source.refusal(f"places {shown(missing[0])} in {part.name}, which lacks it")
    added = sorted(part.content.tensors.keys() - announced)
    if added:
        raise index.source.refusal(f"does not place {shown(added[0])}, which {part.name} holds")
