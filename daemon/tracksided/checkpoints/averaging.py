"""The streaming kernel: read blocks of every source, sum, round, write; nothing is held.

Memory is a few MiB per thread at any model size and any number of sources.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass

from isal import isal_zlib

from tracksided.checkpoints.arithmetic import BLOCK_BYTES, BlockSum
from tracksided.checkpoints.crew import crew
from tracksided.checkpoints.formats.base import Checkpoint, Place
from tracksided.checkpoints.planning import Piece, RecordJob, plan_records
from tracksided.checkpoints.shares import Chunk, ChunkCrcs, Crcs, Share, is_averaged
from tracksided.checkpoints.shown import shown
from tracksided.checkpoints.source import SourceFile
from tracksided.checkpoints.writeback import Target

Progress = Callable[[int, int], None]
"""Told (bytes done, bytes in all) of the output, from the calling thread."""


@dataclass(frozen=True, slots=True)
class _Block:
    """What is read and written at once: a run of bytes of one piece."""

    piece: Piece
    start: int
    """Position in the output's record."""

    nbytes: int


class Averaging:
    """The averaging of some checkpoints; its fields do not change while threads run."""

    def __init__(self, checkpoints: Sequence[Checkpoint], weights: Sequence[float]) -> None:
        """Plan it.

        Args:
            checkpoints: oldest first; the last is the template.
            weights: one per checkpoint; where all are equal, the plain mean is taken.

        Raises:
            SourceRefused: tensors of one share memory in another way than those of the newest.
        """
        is_uniform = len(set(weights)) == 1
        self.checkpoints = tuple(checkpoints)
        self.weights = tuple(weights)
        self.jobs = plan_records(checkpoints)
        self._factors = (1.0,) * len(weights) if is_uniform else tuple(weights)
        self._divisor = float(len(weights)) if is_uniform else 1.0
        self._stop = threading.Event()

    def run(
        self,
        share: Share,
        places: Mapping[str, Place],
        targets: Sequence[Target],
        *,
        num_threads: int = 2,
        progress: Progress | None = None,
    ) -> Crcs:
        """Write the weighted sum of a share's chunks into the output's files.

        Args:
            share: which chunks.
            places: of each record of the template in the output.
            targets: the output's files.
            num_threads: 1 or more.
            progress: called after each chunk; what it raises ends the work.

        Raises:
            SourceRefused: a source is unreadable, or holds NaN or infinity.
            OSError: the output cannot be written.
        """
        crcs = Crcs(self._run_chunks(share.chunks, places, targets, num_threads, progress))
        for index, key in share.rest:
            record = self.checkpoints[index].records[key]
            crcs.rest[index, key] = record.source.crc32(record.offset, record.nbytes)
        return crcs

    def _run_chunks(
        self,
        todo: Sequence[Chunk],
        places: Mapping[str, Place],
        targets: Sequence[Target],
        num_threads: int,
        progress: Progress | None,
    ) -> dict[Chunk, ChunkCrcs]:
        chunks = deque(todo)
        total = sum(chunk.stop - chunk.start for chunk in todo)
        sums = [BlockSum() for _ in range(num_threads)]
        crcs: dict[Chunk, ChunkCrcs] = {}
        running: dict[Future[ChunkCrcs], tuple[Chunk, BlockSum]] = {}
        done = 0
        with crew(num_threads, "average") as pool:
            try:
                while chunks or running:
                    while chunks and sums:
                        chunk, block_sum = chunks.popleft(), sums.pop()
                        future = pool.submit(self._chunk, chunk, places, targets, block_sum)
                        running[future] = (chunk, block_sum)
                    finished, _ = wait(running, return_when=FIRST_COMPLETED)
                    for future in finished:
                        chunk, block_sum = running.pop(future)
                        crcs[chunk] = future.result()
                        sums.append(block_sum)
                        done += chunk.stop - chunk.start
                    if progress is not None:
                        progress(done, total)
            except BaseException as error:
                self._stop.set()  # the other threads end at their next block
                if not isinstance(error, Exception):  # a signal: nobody waits for their block
                    self.checkpoints[-1].sources[0].give_up()
                raise
        return crcs

    def _chunk(
        self,
        chunk: Chunk,
        places: Mapping[str, Place],
        targets: Sequence[Target],
        block_sum: BlockSum,
    ) -> ChunkCrcs:
        job = self.jobs[chunk.job]
        place = places[job.key]
        target, offset = targets[place.file], place.offset
        output_crc, source_crcs = 0, [0] * len(self.checkpoints)
        for block in _blocks(job, chunk):
            if self._stop.is_set():
                break
            if block.piece.element is not None:
                out = self._average(job, block, block_sum, source_crcs)
            else:
                if is_averaged(job):
                    self._pass_by(job, block, block_sum, source_crcs)
                out = self._newest(block, block_sum)
            output_crc = isal_zlib.crc32(out, output_crc)
            target.write(out, offset + block.start)
        target.begin_writeback(offset + chunk.start, chunk.stop - chunk.start)
        return ChunkCrcs(output_crc, tuple(source_crcs))

    def _average(
        self,
        job: RecordJob,
        block: _Block,
        block_sum: BlockSum,
        crcs: list[int],
    ) -> memoryview:
        element = block.piece.element or ""
        buffer = block_sum.block[: block.nbytes]
        block_sum.clear()
        for index, factor in enumerate(self._factors):
            self._read(block, index, buffer)
            if job.aligned_in(index) is not None:
                crcs[index] = isal_zlib.crc32(buffer, crcs[index])
            block_sum.add(block.nbytes, element, factor)
        if block_sum.is_finite(block.nbytes, element):
            return block_sum.result(block.nbytes, element, self._divisor)
        return self._average_again(block, block_sum)

    def _average_again(self, block: _Block, block_sum: BlockSum) -> memoryview:
        """Sum on a scale where only a source can be infinite, and name it; else the sum alone was.

        Raises:
            SourceRefused: a source is not finite, or the average is not by the rounding of weights.
        """
        element, tensor = block.piece.element or "", block.piece.tensor
        buffer = block_sum.block[: block.nbytes]
        block_sum.begin_smaller()
        for index, factor in enumerate(self._factors):
            source = self._read(block, index, buffer)
            block_sum.add(block.nbytes, element, factor)
            if not block_sum.is_finite(block.nbytes, element):
                raise source.refusal(f"NaN or infinity in tensor {shown(tensor)}")
        out = block_sum.result(block.nbytes, element, self._divisor)
        if not block_sum.is_finite(block.nbytes, element):
            raise self.checkpoints[-1].refusal(
                f"the average of tensor {shown(tensor)} exceeds float64"
            )
        return out

    def _pass_by(self, job: RecordJob, block: _Block, block_sum: BlockSum, crcs: list[int]) -> None:
        """Read what is not averaged, only for the CRC of the record around it."""
        buffer = block_sum.block[: block.nbytes]
        for index, checkpoint in enumerate(self.checkpoints):
            key = job.aligned_in(index)
            if key is not None:
                record = checkpoint.records[key]
                record.source.read_into(buffer, record.offset + block.start)
                crcs[index] = isal_zlib.crc32(buffer, crcs[index])

    def _newest(self, block: _Block, block_sum: BlockSum) -> memoryview:
        buffer = block_sum.block[: block.nbytes]
        self._read(block, len(self.checkpoints) - 1, buffer)
        return buffer

    def _read(self, block: _Block, index: int, buffer: memoryview) -> SourceFile:
        """Read a block of one of the checkpoints, and return the file it lies in."""
        key, shift = block.piece.origin(index)
        record = self.checkpoints[index].records[key]
        record.source.read_into(buffer, record.offset + shift + block.start)
        return record.source


def _blocks(job: RecordJob, chunk: Chunk) -> Iterator[_Block]:
    """Cut the part of the pieces that lies in a chunk into blocks."""
    for piece in job.pieces:
        stop = min(piece.start + piece.nbytes, chunk.stop)
        for start in range(max(piece.start, chunk.start), stop, BLOCK_BYTES):
            yield _Block(piece, start, min(BLOCK_BYTES, stop - start))
