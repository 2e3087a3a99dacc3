"""The streaming kernel: read blocks of every source, sum, round, write; nothing is held.

Memory is a few MiB per thread at any model size and any number of sources.
"""

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

from isal import isal_zlib

from tracksided.checkpoints.arithmetic import BLOCK_BYTES, BlockSum
from tracksided.checkpoints.formats.base import Checkpoint, Place, Record
from tracksided.checkpoints.planning import Piece, RecordJob, plan_records
from tracksided.checkpoints.writeback import begin_writeback, write_all
from tracksided.errors import CheckpointRefused

CHUNK_BYTES = 32 * BLOCK_BYTES  # unit of work of a thread: a large embedding is many

Progress = Callable[[int, int], None]
"""Told (bytes done, bytes in all) of the output, from the calling thread."""


@dataclass(frozen=True, slots=True)
class Averaged:
    """CRC-32 of what was read and written."""

    output: Mapping[str, int]
    """Per record of the output."""

    sources: tuple[Mapping[str, int], ...]
    """Per checkpoint, oldest first: per record."""


@dataclass(frozen=True, slots=True)
class _Chunk:
    job: int
    index: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class _ChunkCrcs:
    output: int
    sources: tuple[int, ...]


def average(
    checkpoints: Sequence[Checkpoint],
    weights: Sequence[float],
    places: Mapping[str, Place],
    descriptors: Sequence[int],
    *,
    num_threads: int = 2,
    progress: Progress | None = None,
) -> Averaged:
    """Write the weighted sum of checkpoints into open files.

    Args:
        checkpoints: oldest first; the last is the template.
        weights: one per checkpoint; where all are equal, the plain mean is taken.
        places: of each record of the template in the output.
        descriptors: of the output's files, open for writing.
        num_threads: 1 or more.
        progress: called after each chunk.

    Raises:
        SourceRefused: a source is unreadable, corrupt, or holds NaN or infinity.
        CheckpointsMismatch: their tensors share memory in different ways.
        CheckpointRefused: a dtype cannot be averaged.
        OSError: the output cannot be written.
    """
    kernel = _Kernel(checkpoints, weights, places, descriptors)
    return kernel.run(num_threads, progress)


class _Kernel:
    """One averaging; the fields do not change while threads run."""

    def __init__(
        self,
        checkpoints: Sequence[Checkpoint],
        weights: Sequence[float],
        places: Mapping[str, Place],
        descriptors: Sequence[int],
    ) -> None:
        is_uniform = len(set(weights)) == 1
        self._checkpoints = checkpoints
        self._weights = (1.0,) * len(weights) if is_uniform else tuple(weights)
        self._divisor = float(len(weights)) if is_uniform else 1.0
        self._places = places
        self._descriptors = descriptors
        self._jobs = plan_records(checkpoints)
        self._keys = [
            {id(record): key for key, record in checkpoint.records.items()}
            for checkpoint in checkpoints
        ]
        self._stop = threading.Event()

    def run(self, num_threads: int, progress: Progress | None) -> Averaged:
        """Work through all chunks and check what was read."""
        crcs = self._run_chunks(num_threads, progress)
        output: dict[str, int] = {}
        sources: list[dict[str, int]] = [{} for _ in self._checkpoints]
        for number, job in enumerate(self._jobs):
            parts = [crcs[number, index] for index in range(len(_bounds(job)))]
            sizes = [stop - start for start, stop in _bounds(job)]
            output[job.key] = _combined([part.output for part in parts], sizes)
            if not _is_averaged(job):
                continue
            for index, record in enumerate(job.aligned):
                if record is not None:
                    key = self._keys[index][id(record)]
                    crc = _combined([part.sources[index] for part in parts], sizes)
                    sources[index][key] = crc
        self._read_the_rest(sources)
        for checkpoint, found in zip(self._checkpoints, sources, strict=True):
            _require_stated(checkpoint, found)
        return Averaged(output, tuple(sources))

    def _run_chunks(
        self, num_threads: int, progress: Progress | None
    ) -> dict[tuple[int, int], _ChunkCrcs]:
        chunks = deque(
            _Chunk(number, index, start, stop)
            for number, job in enumerate(self._jobs)
            for index, (start, stop) in enumerate(_bounds(job))
        )
        total = sum(job.nbytes for job in self._jobs)
        sums = [BlockSum() for _ in range(num_threads)]
        crcs: dict[tuple[int, int], _ChunkCrcs] = {}
        running: dict[Future[_ChunkCrcs], tuple[_Chunk, BlockSum]] = {}
        done = 0
        with ThreadPoolExecutor(num_threads, "average") as pool:
            try:
                while chunks or running:
                    while chunks and sums:
                        chunk, block_sum = chunks.popleft(), sums.pop()
                        running[pool.submit(self._chunk, chunk, block_sum)] = (chunk, block_sum)
                    finished, _ = wait(running, return_when=FIRST_COMPLETED)
                    for future in finished:
                        chunk, block_sum = running.pop(future)
                        crcs[chunk.job, chunk.index] = future.result()
                        sums.append(block_sum)
                        done += chunk.stop - chunk.start
                    if progress is not None:
                        progress(done, total)
            except BaseException:
                self._stop.set()  # the other threads end at their next block
                raise
        return crcs

    def _chunk(self, chunk: _Chunk, block_sum: BlockSum) -> _ChunkCrcs:
        job = self._jobs[chunk.job]
        place = self._places[job.key]
        descriptor, offset = self._descriptors[place.file], place.offset
        is_averaged = _is_averaged(job)
        output_crc, source_crcs = 0, [0] * len(self._checkpoints)
        for piece, start, stop in _blocks(job, chunk.start, chunk.stop):
            if self._stop.is_set():
                break
            if piece.element is not None:
                self._sum(job, (piece, start, stop), block_sum, source_crcs)
                out = block_sum.result(stop - start, piece.element, self._divisor)
            else:
                if is_averaged:
                    self._pass_by(job, start, stop, block_sum, source_crcs)
                out = self._newest(piece, start, stop, block_sum)
            output_crc = isal_zlib.crc32(out, output_crc)
            write_all(descriptor, out, offset + start)
        begin_writeback(descriptor, offset + chunk.start, chunk.stop - chunk.start)
        return _ChunkCrcs(output_crc, tuple(source_crcs))

    def _sum(
        self,
        job: RecordJob,
        where: tuple[Piece, int, int],
        block_sum: BlockSum,
        crcs: list[int],
    ) -> None:
        piece, start, stop = where
        element = piece.element or ""
        nbytes = stop - start
        block = block_sum.block[:nbytes]
        block_sum.clear()
        for index, (record, shift) in enumerate(zip(piece.records, piece.shifts, strict=True)):
            record.source.read_into(block, record.offset + shift + start)
            if job.aligned[index] is not None:
                crcs[index] = isal_zlib.crc32(block, crcs[index])
            block_sum.add(nbytes, element, self._weights[index])
        if not block_sum.is_finite(nbytes, element):
            _name_the_culprit(piece, start, stop, block_sum)

    def _pass_by(
        self, job: RecordJob, start: int, stop: int, block_sum: BlockSum, crcs: list[int]
    ) -> None:
        """Read what is not averaged, only for the CRC of the record around it."""
        block = block_sum.block[: stop - start]
        for index, record in enumerate(job.aligned):
            if record is not None:
                record.source.read_into(block, record.offset + start)
                crcs[index] = isal_zlib.crc32(block, crcs[index])

    def _newest(self, piece: Piece, start: int, stop: int, block_sum: BlockSum) -> memoryview:
        block = block_sum.block[: stop - start]
        record, shift = piece.records[-1], piece.shifts[-1]
        record.source.read_into(block, record.offset + shift + start)
        return block

    def _read_the_rest(self, sources: list[dict[str, int]]) -> None:
        """Read the records whose CRC did not come with the averaging: integers, odd layouts."""
        block = memoryview(bytearray(BLOCK_BYTES))
        for checkpoint, found in zip(self._checkpoints, sources, strict=True):
            for key, record in checkpoint.records.items():
                if key not in found:
                    found[key] = record_crc(record, block)


def record_crc(record: Record, block: memoryview) -> int:
    """Read a record through ``block`` and return its CRC-32."""
    crc = 0
    for start in range(0, record.nbytes, len(block)):
        part = block[: min(len(block), record.nbytes - start)]
        record.source.read_into(part, record.offset + start)
        crc = isal_zlib.crc32(part, crc)
    return crc


def _is_averaged(job: RecordJob) -> bool:
    return any(piece.element is not None for piece in job.pieces)


def _bounds(job: RecordJob) -> list[tuple[int, int]]:
    return [
        (start, min(start + CHUNK_BYTES, job.nbytes)) for start in range(0, job.nbytes, CHUNK_BYTES)
    ]


def _blocks(job: RecordJob, start: int, stop: int) -> list[tuple[Piece, int, int]]:
    """Cut the part of the pieces that lies in a chunk into blocks."""
    return [
        (piece, at, min(at + BLOCK_BYTES, piece.start + piece.nbytes, stop))
        for piece in job.pieces
        for at in range(max(piece.start, start), min(piece.start + piece.nbytes, stop), BLOCK_BYTES)
    ]


def _combined(crcs: list[int], sizes: list[int]) -> int:
    crc = 0
    for part, nbytes in zip(crcs, sizes, strict=True):
        crc = isal_zlib.crc32_combine(crc, part, nbytes)
    return crc


def _name_the_culprit(piece: Piece, start: int, stop: int, block_sum: BlockSum) -> None:
    """Read a block again, source by source, to say which one is not finite."""
    element = piece.element or ""
    nbytes = stop - start
    for record, shift in zip(piece.records, piece.shifts, strict=True):
        block_sum.clear()
        record.source.read_into(block_sum.block[:nbytes], record.offset + shift + start)
        block_sum.add(nbytes, element, 1.0)
        if not block_sum.is_finite(nbytes, element):
            raise record.source.refusal(f"NaN or infinity in tensor {piece.tensor!r}")
    raise CheckpointRefused(f"the sum of tensor {piece.tensor!r} exceeds float64")


def _require_stated(checkpoint: Checkpoint, found: Mapping[str, int]) -> None:
    for key, record in checkpoint.records.items():
        if record.crc32 is not None and record.crc32 != found[key]:
            names = [name for name, entry in checkpoint.tensors.items() if entry.record == key]
            raise record.source.refusal(
                f"corrupt: tensor {names[0]!r} does not match its CRC-32 "
                f"({found[key]:08x}, the file states {record.crc32:08x})",
            )
