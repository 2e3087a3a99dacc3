"""Tell whether two checkpoints hold the same tensors."""

import hashlib
from collections.abc import Mapping

from tracksided.checkpoints.dtypes import DTYPES, Rule
from tracksided.checkpoints.formats.base import Checkpoint, Record

_SAMPLE_BYTES = 4096  # read first: different checkpoints almost always differ here
_NUM_SAMPLED = 4  # tensors: some may be frozen
_COMPARE_BYTES = 1 << 20


def content_digest(checkpoint: Checkpoint, crcs: Mapping[str, int]) -> str:
    """Digest the model's tensors: SHA-256 over names, dtypes, shapes and CRC-32 of the bytes.

    Equal for copies of one checkpoint, whatever stands around the tensors in their files.
    """
    digest = hashlib.sha256()
    for name, entry in sorted(checkpoint.tensors.items()):
        line = (name, entry.dtype, entry.shape, entry.strides, entry.start, crcs[entry.record])
        digest.update(repr(line).encode() + b"\n")
    return "crc32-sha256:" + digest.hexdigest()


def stated_digest(checkpoint: Checkpoint) -> str | None:
    """Digest from the checksums that the file states, without reading the tensors, or None."""
    crcs = {key: record.crc32 for key, record in checkpoint.records.items()}
    known = {key: crc for key, crc in crcs.items() if crc is not None}
    return content_digest(checkpoint, known) if len(known) == len(crcs) else None


def sample(checkpoint: Checkpoint) -> bytes:
    """Digest the beginnings of a few tensors: equal for copies, and hardly ever for others.

    Raises:
        SourceRefused: they cannot be read.
    """
    names = sorted(
        name
        for name, entry in checkpoint.tensors.items()
        if entry.span and DTYPES[entry.dtype].rule is Rule.AVERAGE
    )
    digest = hashlib.sha256()
    for place in range(min(_NUM_SAMPLED, len(names))):
        entry = checkpoint.tensors[names[place * len(names) // _NUM_SAMPLED]]
        record = checkpoint.records[entry.record]
        digest.update(
            record.source.read(record.offset + entry.start, min(_SAMPLE_BYTES, entry.span))
        )
    return digest.digest()


def is_same_content(one: Checkpoint, other: Checkpoint) -> bool:
    """Whether two checkpoints that fit together hold equal bytes.

    Reads them in full only where they are equal, or nearly so.
    """
    one_digest, other_digest = stated_digest(one), stated_digest(other)
    if one_digest is not None and other_digest is not None:
        return one_digest == other_digest
    pairs = [
        (one.records[entry.record], other.records[other.tensors[name].record])
        for name, entry in one.tensors.items()
    ]
    if any(a.nbytes != b.nbytes for a, b in pairs):
        return False
    samples = all(_equal(a, b, 0, min(_SAMPLE_BYTES, a.nbytes)) for a, b in pairs)
    return samples and all(
        _equal(a, b, start, min(_COMPARE_BYTES, a.nbytes - start))
        for a, b in pairs
        for start in range(0, a.nbytes, _COMPARE_BYTES)
    )


def _equal(one: Record, other: Record, start: int, nbytes: int) -> bool:
    return one.source.read(one.offset + start, nbytes) == other.source.read(
        other.offset + start, nbytes
    )
