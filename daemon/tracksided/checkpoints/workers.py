"""Who does the work of an averaging: this process alone, or others beside it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tracksided.checkpoints.averaging import Averaging, Progress
from tracksided.checkpoints.crew import crew
from tracksided.checkpoints.formats.base import Place
from tracksided.checkpoints.planning import RecordJob
from tracksided.checkpoints.refusals import SourceRefused
from tracksided.checkpoints.shares import Chunk, Crcs, shares
from tracksided.checkpoints.source import SourceFile
from tracksided.checkpoints.writeback import Target
from tracksided.errors import OutputError

_AHEAD = 256  # chunks that are handed out at once: each of them takes 2 KB until it is read


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """One averaging into files that nobody else sees yet."""

    averaging: Averaging
    places: Mapping[str, Place]
    """Of each record of the template in the output."""

    targets: Sequence[Target]
    paths: Sequence[Path]
    """Where the files of ``targets`` can be read; empty where they cannot be yet."""

    num_threads: int
    """Of each process."""


class Workers(Protocol):
    """Does what costs time: writes the average, and reads it back."""

    @property
    def count(self) -> int:
        """Number of processes."""

    def write(self, work: Work, progress: Progress | None) -> Crcs:
        """Write all chunks, onto disk.

        Raises:
            CheckpointError: the sources cannot be averaged.
            OSError: the output cannot be written.
        """

    def read_back(self, work: Work, crcs: Crcs) -> None:
        """Compare the files with what was written.

        Raises:
            OutputError: they differ.
            CheckpointError: a source was changed meanwhile.
        """


class Alone:
    """This process does it all."""

    count = 1

    def write(self, work: Work, progress: Progress | None) -> Crcs:
        """Write all chunks; whoever publishes syncs them."""
        (share,) = shares(work.averaging.checkpoints, work.averaging.jobs, 1)
        return work.averaging.run(
            share, work.places, work.targets, num_threads=work.num_threads, progress=progress
        )

    def read_back(self, work: Work, crcs: Crcs) -> None:
        """Read every chunk."""
        written = {chunk: found.output for chunk, found in crcs.chunks.items()}
        if work.paths:
            compare(
                work.paths,
                work.averaging.jobs,
                work.places,
                written,
                num_threads=work.num_threads,
            )
        require_unchanged(work.averaging)


def compare(
    paths: Sequence[Path],
    jobs: Sequence[RecordJob],
    places: Mapping[str, Place],
    written: Mapping[Chunk, int],
    *,
    num_threads: int = 1,
    watch: Callable[[], None] = lambda: None,
) -> None:
    """Read chunks of an output's files, and compare them with the CRC-32 of what was written.

    Args:
        paths: of the output's files, in the order of the layout.
        jobs: its records.
        places: key of a record to where it lies.
        written: chunk to CRC-32.
        num_threads: that read.
        watch: called after each chunk; what it raises ends the work.

    Raises:
        OutputError: they differ, or cannot be read.
    """
    files: list[SourceFile] = []

    def crc32(chunk: Chunk) -> int:
        place = places[jobs[chunk.job].key]
        return files[place.file].crc32(place.offset + chunk.start, chunk.stop - chunk.start)

    try:
        files += [SourceFile(path) for path in paths]
        chunks = tuple(written)
        with crew(num_threads, "read-back") as pool:
            found: list[int] = []
            for start in range(0, len(chunks), _AHEAD):
                for crc in pool.map(crc32, chunks[start : start + _AHEAD]):
                    found.append(crc)
                    watch()
    except SourceRefused as error:
        raise OutputError(f"{paths[0].parent}: the average does not read back: {error}") from error
    finally:
        for file in files:
            file.close()
    if found != list(written.values()):
        raise OutputError(f"{paths[0].parent}: what was written reads back differently")


def require_unchanged(averaging: Averaging) -> None:
    """Refuse a source that was written to since it was opened.

    Raises:
        SourceRefused: it was.
    """
    for checkpoint in averaging.checkpoints:
        for source in checkpoint.sources:
            source.require_unchanged()
