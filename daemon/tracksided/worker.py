"""The analysis process: ``python -m tracksided.worker FD PARENT MEMORY_BYTES``.

Takes one job at a time from its socket. For a `Job` it reads the records straight from shared
memory and writes the step folder; for an `OverviewJob` or a `ReportJob` it reads what lies in the
output directory. It answers with the job's outcome or a `JobFailed`. A crash, a hang or running
out of memory here costs the daemon nothing.
"""

import logging
import resource
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path

from trackside.errors import RecordCorrupt, TracksideError
from trackside.wire.records import Hello, Step, decode
from trackside.wire.ring import RingReader
from tracksided.analysis import analyse
from tracksided.assemble import RankStep, assemble, folder_name
from tracksided.clipping import infer_clipping
from tracksided.errors import OutputError, ReportError
from tracksided.gradient_memory import GradientMemory
from tracksided.jobs import (
    AnyJob,
    Job,
    JobDone,
    JobFailed,
    Outcome,
    OverviewDone,
    OverviewJob,
    RecordRef,
    ReportDone,
    ReportJob,
)
from tracksided.overview import write_overview
from tracksided.printable import log_to_stderr
from tracksided.priority import become_idle, die_with, leave_terminal_to_parent
from tracksided.progress.final_files import write_final_report
from tracksided.samples import Sample, StepSamples, build_sample
from tracksided.shards import join_shards
from tracksided.sinks.folder import write_step_folder
from tracksided.statistics.weight_checksum import total_weight_norm, weight_checksum

logger = logging.getLogger(__name__)

STATISTICS = "statistics"  # the word in `visualize` that asks for statistics.json
MAX_OPEN_SEGMENTS = 64  # a map costs address space only, as long as its file is there
LOOK_EVERY_S = 5.0  # while idle, for files that are gone


class Worker:
    """Analyses jobs one after the other; keeps segments mapped between them."""

    def __init__(self, wall_clock: Callable[[], float]) -> None:
        self._wall_clock = wall_clock
        self._readers: dict[Path, RingReader] = {}

    def run(self, job: AnyJob) -> Outcome:
        """Do one job; whatever goes wrong becomes an answer."""
        try:
            return self._do(job)
        except OutputError as error:
            return JobFailed(str(error), is_output=True)
        except (TracksideError, ReportError) as error:
            return JobFailed(str(error), is_output=False)
        except MemoryError:
            return JobFailed(
                "the analysis ran out of memory (workers.memory_bytes)", is_output=False
            )
        except Exception as error:
            # The stage boundary: an unforeseen failure costs this step's analysis only.
            logger.exception("analysis failed")
            return JobFailed(f"{type(error).__name__}: {error}", is_output=False)

    def close_removed(self) -> None:
        """Let go of segments whose files are removed: until then their memory is not free."""
        for segment in [path for path in self._readers if not path.exists()]:
            self._readers.pop(segment).close()

    def _do(self, job: AnyJob) -> Outcome:
        match job:
            case OverviewJob():
                return OverviewDone(write_overview(job.output_dir, job.visualize))
            case ReportJob():
                write_final_report(job.output_dir, self._wall_clock())
                return ReportDone()
            case Job():
                return self._analyse(job)

    def _analyse(self, job: Job) -> JobDone:
        samples = [self._sample(record) for record in job.records]
        leader = samples[0]
        step_samples = _joined(samples)
        if job.with_statistics:
            step_samples = step_samples.after(self._memory_of(job.previous))
        analysis = analyse(
            step_samples,
            visualize=leader.hello.visualize,
            with_pictures=job.with_pictures,
            with_statistics=job.with_statistics,
        )
        pairs = zip(samples, step_samples.samples, strict=True)
        ranks = [_rank_step(held, joined.step) for held, joined in pairs]
        report = assemble(ranks, analysis, shed=job.shed)
        write_step_folder(
            job.output_dir,
            folder_name(leader.step),
            statistics=report.statistics if STATISTICS in leader.hello.visualize else None,
            pictures=report.pictures,
            raw=analysis.raw,
        )
        gradients = step_samples.leader.gradients if job.with_statistics else None
        memory = None if gradients is None else GradientMemory.of(leader.step.step, gradients)
        return JobDone(report, memory)

    def _memory_of(
        self, previous: tuple[RecordRef, ...] | GradientMemory | None
    ) -> GradientMemory | None:
        """Return what the step before left, None where that cannot be read."""
        if not isinstance(previous, tuple):
            return previous
        try:
            held = _joined([self._sample(record) for record in previous]).leader
            if held.gradients is None:
                return None
            memory = GradientMemory.of(held.step.step, held.gradients)
        except TracksideError as error:
            logger.debug("the gradient of the step before cannot be read: %s", error)
            return None
        return memory

    def _sample(self, record: RecordRef) -> Sample:
        reader = self._reader(record.segment)
        found = reader.read_at(record.start)
        hello = decode(Hello, reader.hello())
        return build_sample(hello, decode(Step, found.metadata), found.payload)

    def _reader(self, segment: Path) -> RingReader:
        if segment not in self._readers:
            while len(self._readers) >= MAX_OPEN_SEGMENTS:
                oldest = next(iter(self._readers))
                self._readers.pop(oldest).close()
            self._readers[segment] = RingReader.open(segment, read_only=True)
        return self._readers[segment]


def _joined(samples: Sequence[Sample]) -> StepSamples:
    leader = samples[0]
    ranks = StepSamples(leader.hello.run, leader.step.step, tuple(samples))
    return infer_clipping(join_shards(ranks))


def _rank_step(held: Sample, step: Step) -> RankStep:
    """Say what one rank delivered: its own weights, and the step with joined norms."""
    gradients = held.gradients
    return RankStep(
        held.hello,
        step,
        weight_norm=None if gradients is None else total_weight_norm(gradients),
        weight_checksum=None if gradients is None else weight_checksum(gradients),
    )


def main(arguments: Sequence[str]) -> int:
    """Serve jobs until the parent closes the socket.

    Args:
        arguments: descriptor of the socket, pid of the parent, limit of private memory in bytes.

    Raises:
        RecordCorrupt: the parent sent something else than a job.
    """
    descriptor, parent, memory_bytes = (int(argument) for argument in arguments)
    leave_terminal_to_parent()
    become_idle()
    die_with(parent)
    # Counts private memory only: a large ring that we map is not ours.
    resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))
    log_to_stderr(logging.WARNING, "worker %(process)d")
    worker = Worker(time.time)
    with Connection(descriptor) as connection:
        while True:
            try:
                while not connection.poll(LOOK_EVERY_S):
                    worker.close_removed()
                job = connection.recv()
                if not isinstance(job, AnyJob):
                    raise RecordCorrupt(f"the daemon sent {type(job).__name__}, expected a Job")
                connection.send(worker.run(job))
                worker.close_removed()
            except (EOFError, BrokenPipeError, ConnectionResetError):
                return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
