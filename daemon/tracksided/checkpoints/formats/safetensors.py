"""Safetensors files: 8 bytes of header length, a JSON header, the tensors.

The format has no checksum: a complete file can be told from a truncated one, but not from
one whose bytes were damaged.
"""

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass

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
from tracksided.checkpoints.source import SourceFile
from tracksided.errors import CheckpointRefused

MAX_HEADER_BYTES = 100_000_000  # the limit of the safetensors library itself
_LENGTH = struct.Struct("<Q")
_METADATA = "__metadata__"
_STEP_KEYS = ("global_step", "step", "iteration")

DTYPE_NAMES: Mapping[str, str] = {
    "F16": "float16",
    "BF16": "bfloat16",
    "F32": "float32",
    "F64": "float64",
    "C64": "complex64",
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "I16": "int16",
    "U16": "uint16",
    "I32": "int32",
    "U32": "uint32",
    "I64": "int64",
    "U64": "uint64",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E8M0": "float8_e8m0fnu",
}


@dataclass(frozen=True, slots=True)
class _Template:
    """The bytes in front of the tensors, kept as they are: keys, order and metadata."""

    head: bytes


class Safetensors:
    """`.safetensors`."""

    name = "safetensors"
    suffixes = (".safetensors",)

    def describe(self, source: SourceFile) -> Checkpoint:
        """Read the header; the tensors fill the file exactly. See `FileFormat.describe`."""
        head = _read_head(source)
        entries = _parse_header(source, head[_LENGTH.size :])
        metadata = entries.pop(_METADATA, {})
        tensors, records, end = {}, {}, len(head)
        for name, entry in sorted(entries.items(), key=lambda item: _offsets(source, *item)):
            dtype, shape, begin, nbytes = _tensor(source, name, entry)
            if begin + len(head) != end:
                raise CheckpointRefused(f"{source.name}: hole or overlap before tensor {name!r}")
            records[name] = Record(source, end, nbytes, None)
            tensors[name] = TensorEntry(dtype, shape, _row_major(shape), name, 0, nbytes)
            end += nbytes
        if end != source.nbytes:
            raise CheckpointRefused(
                f"{source.name}: incomplete or truncated: {source.nbytes} bytes, its header "
                f"announces {end}"
            )
        if not tensors:
            raise CheckpointRefused(f"{source.name}: holds no tensors")
        return Checkpoint(
            sources=(source,),
            format=self.name,
            tensors=tensors,
            records=records,
            step=_step(metadata),
            template=_Template(head),
        )

    def layout(self, template: Checkpoint) -> OutputLayout:
        """Keep the header; every tensor stays where it is."""
        kept = template.template_as(_Template)
        (source,) = template.sources
        file = OutputFile("", source.nbytes, source.status, ((0, kept.head),))
        return OutputLayout(
            files=(file,),
            records={key: Place(0, record.offset) for key, record in template.records.items()},
            is_in_order=True,
        )

    def seal(self, template: Checkpoint, crcs: Mapping[str, int]) -> tuple[Patch, ...]:
        """Nothing depends on checksums: the format has none."""
        del template, crcs
        return ()

    def metrics(self, checkpoint: Checkpoint) -> Mapping[str, float]:
        """Read the texts of the metadata that are numbers."""
        head = checkpoint.template_as(_Template).head
        (source,) = checkpoint.sources
        metadata = _parse_header(source, head[_LENGTH.size :]).get(_METADATA)
        texts = metadata.items() if isinstance(metadata, dict) else ()
        return {name: float(text) for name, text in texts if _is_number(text)}


def _read_head(source: SourceFile) -> bytes:
    if source.nbytes < _LENGTH.size:
        raise CheckpointRefused(f"{source.name}: {source.nbytes} bytes are no safetensors file")
    (nbytes,) = _LENGTH.unpack(source.read(0, _LENGTH.size))
    if nbytes > min(MAX_HEADER_BYTES, source.nbytes - _LENGTH.size):
        raise CheckpointRefused(
            f"{source.name}: announces a header of {nbytes} bytes: truncated, or no safetensors"
        )
    return source.read(0, _LENGTH.size + nbytes)


def _parse_header(source: SourceFile, header: bytes) -> dict[str, object]:
    try:
        parsed = json.loads(header, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise CheckpointRefused(f"{source.name}: its header is not sane JSON: {error}") from error
    if not isinstance(parsed, dict):
        raise CheckpointRefused(f"{source.name}: its header is not a JSON object")
    return parsed


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    unique = dict(pairs)
    if len(unique) != len(pairs):
        raise ValueError("a key stands twice")
    return unique


def _offsets(source: SourceFile, name: str, entry: object) -> tuple[int, int]:
    offsets = entry.get("data_offsets") if isinstance(entry, dict) else None
    match offsets:
        case [int(begin), int(end)] if 0 <= begin <= end:
            return begin, end
        case _:
            raise CheckpointRefused(f"{source.name}: tensor {name!r} has no sane data_offsets")


def _tensor(source: SourceFile, name: str, entry: object) -> tuple[str, tuple[int, ...], int, int]:
    begin, end = _offsets(source, name, entry)
    fields = entry if isinstance(entry, dict) else {}
    dtype = DTYPE_NAMES.get(str(fields.get("dtype")))
    if dtype is None:
        raise CheckpointRefused(
            f"{source.name}: tensor {name!r} has dtype {fields.get('dtype')!r}, which is not known"
        )
    shape = fields.get("shape")
    if not isinstance(shape, list) or not all(type(n) is int and n >= 0 for n in shape):
        raise CheckpointRefused(f"{source.name}: tensor {name!r} has no sane shape")
    if math.prod(shape) * DTYPES[dtype].itemsize != end - begin:
        raise CheckpointRefused(f"{source.name}: tensor {name!r} has another size than its shape")
    return dtype, tuple(shape), begin, end - begin


def _row_major(shape: tuple[int, ...]) -> tuple[int, ...]:
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= max(size, 1)
    return tuple(reversed(strides))


def _step(metadata: object) -> int | None:
    for key in _STEP_KEYS:
        value = metadata.get(key) if isinstance(metadata, dict) else None
        if isinstance(value, str) and value.isascii() and value.isdigit():
            return int(value)
    return None


def _is_number(text: object) -> bool:
    if not isinstance(text, str):
        return False
    try:
        float(text)
    except ValueError:
        return False
    return True
