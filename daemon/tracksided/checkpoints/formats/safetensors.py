"""Safetensors files: 8 bytes of header length, a JSON header, the tensors.

The format has no checksum: a complete file can be told from a truncated one, but not from
one whose bytes were damaged.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass

from tracksided.checkpoints.formats.base import (
    Checkpoint,
    OutputFile,
    OutputLayout,
    Patch,
    Place,
    Record,
    TensorEntry,
)
from tracksided.checkpoints.formats.safetensors_header import Header, read_header
from tracksided.checkpoints.numbers import MAX_COUNT
from tracksided.checkpoints.shown import shown
from tracksided.checkpoints.source import SourceFile

MAX_HEADER_BYTES = 100_000_000  # the limit of the safetensors library itself
_LENGTH = struct.Struct("<Q")
_MAX_STEP_DIGITS = 19  # of MAX_COUNT
_STEP_KEYS = ("global_step", "step", "iteration")


@dataclass(frozen=True, slots=True)
class _Template:
    """The bytes in front of the tensors are read again for the output, to hold less."""

    head_bytes: int


class Safetensors:
    """`.safetensors`."""

    name = "safetensors"
    suffixes = (".safetensors",)

    def describe(self, source: SourceFile) -> Checkpoint:
        """Read the header; the tensors fill the file exactly. See `FileFormat.describe`."""
        head = _read_head(source)
        header = _parse(source, head)
        tensors, records, end = {}, {}, len(head)
        for entry in sorted(header.entries, key=lambda entry: (entry.begin, entry.nbytes)):
            name = entry.name
            if entry.begin + len(head) != end:
                raise source.refusal(f"hole or overlap before tensor {shown(name)}")
            records[name] = Record(source, end, entry.nbytes, None)
            strides = _row_major(entry.shape)
            tensors[name] = TensorEntry(entry.dtype, entry.shape, strides, name, 0, entry.nbytes)
            end += entry.nbytes
        if end != source.nbytes:
            raise source.refusal(
                f"incomplete or truncated: {source.nbytes} bytes, its header announces {end}"
            )
        if not tensors:
            raise source.refusal("holds no tensors")
        return Checkpoint(
            sources=(source,),
            format=self.name,
            tensors=tensors,
            records=records,
            step=_step(source, header.metadata),
            template=_Template(len(head)),
        )

    def layout(self, template: Checkpoint) -> OutputLayout:
        """Keep the header; every tensor stays where it is."""
        kept = template.template_as(_Template)
        (source,) = template.sources
        head = source.read(0, kept.head_bytes)
        file = OutputFile("", source.nbytes, source.status, ((0, head),))
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
        head_bytes = checkpoint.template_as(_Template).head_bytes
        (source,) = checkpoint.sources
        texts = _parse(source, source.read(0, head_bytes)).metadata
        return {name: float(text) for name, text in texts.items() if _is_number(text)}


def _read_head(source: SourceFile) -> bytes:
    if source.nbytes < _LENGTH.size:
        raise source.refusal(f"{source.nbytes} bytes are no safetensors file")
    (nbytes,) = _LENGTH.unpack(source.read(0, _LENGTH.size))
    if nbytes > min(MAX_HEADER_BYTES, source.nbytes - _LENGTH.size):
        raise source.refusal(f"announces a header of {nbytes} bytes: truncated, or no safetensors")
    return source.read(0, _LENGTH.size + nbytes)


def _parse(source: SourceFile, head: bytes) -> Header:
    try:
        return read_header(memoryview(head)[_LENGTH.size :])
    except (ValueError, RecursionError) as error:
        raise source.refusal(f"its header is not sane: {error}") from error


def _row_major(shape: tuple[int, ...]) -> tuple[int, ...]:
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= max(size, 1)
    return tuple(reversed(strides))


def _step(source: SourceFile, metadata: Mapping[str, str]) -> int | None:
    for key in _STEP_KEYS:
        text = metadata.get(key, "")
        if text.isascii() and text.isdigit():
            step = int(text) if len(text) <= _MAX_STEP_DIGITS else MAX_COUNT
            if step >= MAX_COUNT:
                raise source.refusal(f"its {key} {shown(text)} is larger than any step")
            return step
    return None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
