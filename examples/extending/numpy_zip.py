"""Checkpoints of `numpy.savez`, as JAX projects publish them: a zip of one .npy per array."""

import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from operator import mul

import numpy as np
from numpy.lib import format as npy

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
from tracksided.checkpoints.formats.zip_container import (
    ZipRecord,
    directory,
    local_header,
    place_records,
    read_directory,
)
from tracksided.checkpoints.source import SourceFile
from tracksided.errors import CheckpointRefused

MAX_HEADER_BYTES = 1 << 16  # version 1.0 has 16 bits for its length
_SUFFIX = ".npy"
_STEP = "step.npy"


@dataclass(frozen=True, slots=True)
class _Template:
    """Names and sizes of all records, in order."""

    sizes: tuple[tuple[str, int], ...]


class NumpyZip:
    """`.npz`, not compressed. A record is a header and the elements: both have one CRC-32."""

    name = "numpy"
    suffixes = (".npz",)

    def describe(self, source: SourceFile) -> Checkpoint:
        """Read the zip directory and every header; see `FileFormat.describe`."""
        found = read_directory(source)
        if not found:
            raise CheckpointRefused("holds no arrays")
        tensors = {record.name.removesuffix(_SUFFIX): _entry(source, record) for record in found}
        return Checkpoint(
            sources=(source,),
            format=self.name,
            tensors=tensors,
            records={
                record.name: Record(source, record.offset, record.nbytes, record.crc32)
                for record in found
            },
            step=_step(source, found),
            template=_Template(tuple((record.name, record.nbytes) for record in found)),
        )

    def layout(self, template: Checkpoint) -> OutputLayout:
        """Keep every record; headers of the zip are written anew."""
        placed, directory_at = place_records(_sizes(template))
        end = directory_at + len(directory(placed, (0,) * len(placed), 0))
        (source,) = template.sources
        return OutputLayout(
            files=(OutputFile("", end, source.status),),
            records={record.name: Place(0, record.offset) for record in placed},
        )

    def seal(self, template: Checkpoint, crcs: Mapping[str, int]) -> tuple[Patch, ...]:
        """Write all headers and the directory, now that the CRCs are known."""
        placed, directory_at = place_records(_sizes(template))
        ordered = tuple(crcs[record.name] for record in placed)
        headers = [
            Patch(0, record.header_at, local_header(record, crc))
            for record, crc in zip(placed, ordered, strict=True)
        ]
        return (*headers, Patch(0, directory_at, directory(placed, ordered, directory_at)))

    def metrics(self, checkpoint: Checkpoint) -> Mapping[str, float]:
        """Say nothing: arrays have no place for what they scored."""
        del checkpoint
        return {}


def _sizes(checkpoint: Checkpoint) -> tuple[tuple[str, int], ...]:
    return checkpoint.template_as(_Template).sizes


def _entry(source: SourceFile, record: ZipRecord) -> TensorEntry:
    if not record.is_stored or not record.name.endswith(_SUFFIX):
        raise CheckpointRefused(
            f"{record.name!r} is compressed or no array; save it with numpy.savez"
        )
    head = io.BytesIO(source.read(record.offset, min(record.nbytes, MAX_HEADER_BYTES)))
    try:
        version = npy.read_magic(head)
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, is_fortran, dtype = read(head)
    except ValueError as error:
        raise CheckpointRefused(f"{record.name!r} has no sane header") from error
    if dtype.hasobject or dtype.byteorder == ">" or dtype.name not in DTYPES:
        raise CheckpointRefused(f"{record.name!r} holds {dtype}, which is not read")
    nbytes = math.prod(shape) * dtype.itemsize
    if head.tell() + nbytes != record.nbytes:
        raise CheckpointRefused(f"{record.name!r} has another size than its shape")
    return TensorEntry(
        dtype=dtype.name,
        shape=shape,
        strides=_strides(shape, is_fortran=is_fortran),
        record=record.name,
        start=head.tell(),
        span=nbytes,
    )


def _strides(shape: tuple[int, ...], *, is_fortran: bool) -> tuple[int, ...]:
    """Return the distance of neighbours in each dimension, in elements."""
    sizes = [max(size, 1) for size in shape]
    steps = list(accumulate(sizes if is_fortran else reversed(sizes), mul, initial=1))[:-1]
    return tuple(steps if is_fortran else reversed(steps))


def _step(source: SourceFile, records: tuple[ZipRecord, ...]) -> int | None:
    """Return the value of an array called ``step``, if it is one whole number."""
    for record in records:
        if record.name == _STEP and record.nbytes < MAX_HEADER_BYTES:
            value = np.load(io.BytesIO(source.read(record.offset, record.nbytes)))
            return int(value) if value.ndim == 0 and value.dtype.kind in "iu" else None
    return None
