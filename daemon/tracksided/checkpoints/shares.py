"""Cut an averaging into shares that processes do on their own, and put their results together."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from isal import isal_zlib

from tracksided.checkpoints.arithmetic import BLOCK_BYTES
from tracksided.checkpoints.content import content_digest
from tracksided.checkpoints.formats.base import Checkpoint
from tracksided.checkpoints.planning import RecordJob
from tracksided.checkpoints.shown import shown

CHUNK_BYTES = 32 * BLOCK_BYTES  # unit of work of a thread: a large embedding is many

_Unit = TypeVar("_Unit")


@dataclass(frozen=True, slots=True)
class Chunk:
    """A run of bytes of one record of the output."""

    job: int
    """Index of its `RecordJob`."""

    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class ChunkCrcs:
    """CRC-32 of a chunk as written, and of the same bytes of each source, oldest first."""

    output: int
    sources: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Share:
    """What one process does."""

    chunks: tuple[Chunk, ...]
    rest: tuple[tuple[int, str], ...]
    """(checkpoint, record) of what is read for its CRC only: integers, odd layouts."""


@dataclass(slots=True)
class Crcs:
    """What a share, or all of them, came to."""

    chunks: dict[Chunk, ChunkCrcs] = field(default_factory=dict)
    rest: dict[tuple[int, str], int] = field(default_factory=dict)

    def add(self, other: "Crcs") -> None:
        """Take in another share's."""
        self.chunks |= other.chunks
        self.rest |= other.rest


@dataclass(frozen=True, slots=True)
class Averaged:
    """What was read and written."""

    output: Mapping[str, int]
    """Per record of the output: its CRC-32."""

    sources: tuple[str, ...]
    """Per checkpoint, oldest first: digest of its content."""


def is_averaged(job: RecordJob) -> bool:
    """Whether any of its bytes are; the others come from the newest checkpoint."""
    return any(piece.element is not None for piece in job.pieces)


def all_chunks(jobs: Sequence[RecordJob]) -> tuple[Chunk, ...]:
    """Cut all records into chunks, in order."""
    return tuple(
        Chunk(number, start, min(start + CHUNK_BYTES, job.nbytes))
        for number, job in enumerate(jobs)
        for start in range(0, job.nbytes, CHUNK_BYTES)
    )


def shares(
    checkpoints: Sequence[Checkpoint], jobs: Sequence[RecordJob], count: int
) -> tuple[Share, ...]:
    """Cut the work into ``count`` shares of about equal bytes, each of neighbouring chunks."""
    chunks = [(chunk, chunk.stop - chunk.start) for chunk in all_chunks(jobs)]
    rest = [
        ((index, key), record.nbytes)
        for index, (checkpoint, beside) in enumerate(
            zip(checkpoints, _read_beside(checkpoints, jobs), strict=True)
        )
        for key, record in checkpoint.records.items()
        if key not in beside
    ]
    parts = zip(_split(chunks, count), _split(rest, count), strict=True)
    return tuple(Share(tuple(mine), tuple(others)) for mine, others in parts)


def conclude(checkpoints: Sequence[Checkpoint], jobs: Sequence[RecordJob], crcs: Crcs) -> Averaged:
    """Put the CRCs of all shares together, compare what the sources state, and digest them.

    Raises:
        SourceRefused: a source is corrupt.
    """
    by_job: dict[int, list[Chunk]] = {number: [] for number in range(len(jobs))}
    for chunk in sorted(crcs.chunks, key=lambda chunk: (chunk.job, chunk.start)):
        by_job[chunk.job].append(chunk)
    output = {
        job.key: _combined((crcs.chunks[chunk].output, chunk) for chunk in by_job[number])
        for number, job in enumerate(jobs)
    }
    found: list[str] = []
    for index, (checkpoint, beside) in enumerate(
        zip(checkpoints, _read_beside(checkpoints, jobs), strict=True)
    ):
        own = {
            key: _combined((crcs.chunks[chunk].sources[index], chunk) for chunk in by_job[number])
            for key, number in beside.items()
        }
        own |= {key: crc for (at, key), crc in crcs.rest.items() if at == index}
        _require_stated(checkpoint, own)
        found.append(content_digest(checkpoint, own))
    return Averaged(output, tuple(found))


def fingerprint(
    checkpoints: Sequence[Checkpoint], jobs: Sequence[RecordJob], weights: Sequence[float]
) -> str:
    """Digest everything that decides which bytes are read, summed and written where.

    Args:
        checkpoints: oldest first.
        jobs: how their records are averaged.
        weights: one per checkpoint.
    """
    digest = hashlib.sha256(repr(tuple(weights)).encode())
    for job in jobs:
        digest.update(repr((job.key, job.nbytes)).encode())
        for piece in job.pieces:
            digest.update(repr((piece.start, piece.nbytes, piece.element)).encode())
            read = range(len(checkpoints)) if piece.element else (len(checkpoints) - 1,)
            for index in read:
                key, shift = piece.origin(index)
                record = checkpoints[index].records[key]
                digest.update(repr((record.source.name, record.offset, shift)).encode())
    return digest.hexdigest()


def _read_beside(
    checkpoints: Sequence[Checkpoint], jobs: Sequence[RecordJob]
) -> tuple[Mapping[str, int], ...]:
    """Per checkpoint: the records that are read from end to end by the averaging of a job."""
    averaged = [(number, job) for number, job in enumerate(jobs) if is_averaged(job)]

    def beside(index: int) -> dict[str, int]:
        keys = ((job.aligned_in(index), number) for number, job in averaged)
        return {key: number for key, number in keys if key is not None}

    if all(len(job.aligned) == 1 for _, job in averaged):
        return (beside(0),) * len(checkpoints)
    return tuple(beside(index) for index in range(len(checkpoints)))


def _split(units: Sequence[tuple[_Unit, int]], count: int) -> list[list[_Unit]]:
    """Cut a row of (unit, bytes) into ``count`` rows of about equal bytes."""
    total = sum(nbytes for _, nbytes in units)
    parts: list[list[_Unit]] = [[] for _ in range(count)]
    position = 0
    for unit, nbytes in units:
        middle = 2 * position + nbytes  # twice, to stay whole
        parts[min(count - 1, middle * count // max(1, 2 * total))].append(unit)
        position += nbytes
    return parts


def _combined(parts: Iterable[tuple[int, Chunk]]) -> int:
    crc = 0
    for part, chunk in parts:
        crc = isal_zlib.crc32_combine(crc, part, chunk.stop - chunk.start)
    return crc


def _require_stated(checkpoint: Checkpoint, found: Mapping[str, int]) -> None:
    for key, record in checkpoint.records.items():
        if record.crc32 is not None and record.crc32 != found[key]:
            names = [name for name, entry in checkpoint.tensors.items() if entry.record == key]
            raise record.source.refusal(
                f"corrupt: tensor {shown(names[0])} does not match its CRC-32 "
                f"({found[key]:08x}, the file states {record.crc32:08x})"
            )
