"""The flow of one run's steps: waiting, being analysed, written; always committed in order."""

import logging
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from trackside.wire.records import Hello
from tracksided.assemble import RankStep, assemble, folder_name
from tracksided.config import WorkerSettings
from tracksided.errors import OutputError, OutputPending
from tracksided.gradient_memory import GradientMemory
from tracksided.ingest.aligner import Aligned
from tracksided.ingest.stream import Delivery
from tracksided.jobs import Job, JobDone, JobFailed, RecordRef
from tracksided.reports import StepReport

logger = logging.getLogger(__name__)

FIRST_RETRY_S = 1.0
MAX_RETRY_S = 30.0
WORKER_STAGE = "worker"

AlignedStep = Aligned[Delivery]


class Pool(Protocol):
    """What the pipeline needs of `tracksided.pool.WorkerPool`."""

    @property
    def has_room(self) -> bool:
        """Whether another job would start soon."""

    def submit(self, job: Job) -> int:
        """Queue a job."""


class Committer(Protocol):
    """What the pipeline needs of `tracksided.patient_outputs.PatientOutputs`."""

    @property
    def directory(self) -> Path:
        """The output directory."""

    @property
    def is_silent(self) -> bool:
        """Whether its file system does not answer."""

    def write_folder(self, folder: str, statistics: Mapping[str, object] | None) -> None:
        """Write the folder of a step, or raise `OutputError`."""

    def commit(self, report: StepReport, records: dict[int, tuple[str, int]]) -> None:
        """Write a step durably, or raise `OutputError`."""


@dataclass(slots=True)
class Retry:
    """When to try again after an output error: twice as late each time."""

    wait_s: float = 0.0
    not_before: float = 0.0
    problem: str | None = None
    """What went wrong last, None while all is well."""

    _told: set[str] = field(default_factory=set)
    """What went wrong since all was well: steps that take turns at failing are not told again."""

    def failed(self, problem: str, now: float) -> None:
        """Note a failure; it is logged when it is new."""
        self.wait_s = min(max(2 * self.wait_s, FIRST_RETRY_S), MAX_RETRY_S)
        self.not_before = now + self.wait_s
        self.problem = problem
        if problem not in self._told:
            self._told.add(problem)
            logger.error("%s; nothing is lost, it is tried again", problem)

    def succeeded(self) -> None:
        """Note that the outputs can be written."""
        if self.problem is not None:
            logger.warning("outputs can be written again after: %s", self.problem)
        self.wait_s, self.not_before, self.problem = 0.0, 0.0, None
        self._told.clear()


@dataclass(slots=True)
class Pipeline:
    """The steps of one run between the aligner and the disk.

    States of a step: waiting -> analysing -> reported -> committed; back to waiting where its
    folder could not be written. One thread.
    """

    outputs: Committer
    settings: WorkerSettings
    hellos: Callable[[], dict[int, Hello]]
    """Rank to what its segment says of itself."""

    complete: Callable[[StepReport], StepReport] = lambda report: report
    """Adds what only this process knows; called once for each step, in order."""

    retry: Retry = field(default_factory=Retry)
    dispatched_at: float = float("-inf")
    """When a worker was asked last, in monotonic seconds."""

    num_shed: int = 0
    num_failed: int = 0
    """Steps reported without their analysis."""

    _flights: deque["_Flight"] = field(default_factory=deque)
    _memory: GradientMemory | None = None
    """Of the newest committed step that left one."""

    _unsettled: list[AlignedStep] = field(default_factory=list)
    """Committed, but not returned by `commit` yet."""

    @property
    def num_waiting(self) -> int:
        """Steps that no worker has been asked for."""
        return sum(flight.ticket is None and flight.report is None for flight in self._flights)

    @property
    def is_empty(self) -> bool:
        """Whether every step taken in is committed."""
        return not self._flights

    def add(self, step: AlignedStep) -> None:
        """Take in a step; they come in ascending order."""
        self._flights.append(_Flight(step))

    def dispatch(self, pool: Pool, now: float) -> None:
        """Hand waiting steps to workers while these have room."""
        if now < self.retry.not_before or self.outputs.is_silent:
            return
        waiting = self.num_waiting
        previous: tuple[RecordRef, ...] | GradientMemory | None = self._memory
        for flight in self._flights:
            if flight.ticket is None and flight.report is None:
                if not pool.has_room:
                    return
                flight.ticket = pool.submit(self._job(flight, waiting, previous))
                self.dispatched_at = now
                flight.reads_previous = isinstance(previous, tuple)
                waiting -= 1
            previous = flight.records

    def receive(self, ticket: int, outcome: JobDone | JobFailed, now: float) -> bool:
        """Take a worker's answer; False if it is not for this run.

        Args:
            ticket: what the pool called the job.
            outcome: of the job.
            now: monotonic seconds.
        """
        flight = next((entry for entry in self._flights if entry.ticket == ticket), None)
        if flight is None:
            return False
        flight.ticket = None
        if isinstance(outcome, JobDone):
            flight.report, flight.memory = outcome.report, outcome.memory
        elif outcome.is_output:
            self.retry.failed(outcome.reason, now)
        else:
            self._report_without_analysis(flight, outcome.reason)
        return True

    def commit(self, now: float) -> list[AlignedStep]:
        """Write what is reported, in order.

        Returns:
            The steps that are durable and whose records nobody reads any more.
        """
        while self._flights and now >= self.retry.not_before:
            flight = self._flights[0]
            if flight.report is None:
                break
            records = {
                rank: (delivery.nonce, delivery.sequence)
                for rank, delivery in flight.step.by_rank.items()
            }
            try:
                if flight.lacks_folder:
                    self.outputs.write_folder(flight.folder, flight.report.statistics)
                    flight.lacks_folder = False
                if not flight.is_complete:
                    flight.report, flight.is_complete = self.complete(flight.report), True
                self.outputs.commit(flight.report, records)
            except OutputPending:
                break
            except OutputError as error:
                self.retry.failed(str(error), now)
                break
            self.retry.succeeded()
            self._flights.popleft()
            self._memory = flight.memory or self._memory
            self._unsettled.append(flight.step)
        return self._settle()

    def _settle(self) -> list[AlignedStep]:
        """Let go of committed steps, but not of one whose records the next step's job reads."""
        first = self._flights[0] if self._flights else None
        is_read = first is not None and first.ticket is not None and first.reads_previous
        num_free = len(self._unsettled) - is_read
        free, self._unsettled = self._unsettled[:num_free], self._unsettled[num_free:]
        return free

    def _job(
        self,
        flight: "_Flight",
        waiting: int,
        previous: tuple[RecordRef, ...] | GradientMemory | None,
    ) -> Job:
        flight.shed = self._shed(waiting)
        if flight.shed is not None:
            self.num_shed += 1
            if self.num_shed == 1:
                logger.warning(
                    "overloaded: %d steps wait; %s are left out until it is better",
                    waiting,
                    flight.shed,
                )
        return Job(
            records=flight.records,
            output_dir=self.outputs.directory,
            with_pictures=flight.shed is None,
            with_statistics=flight.shed != "pictures and statistics",
            shed=flight.shed,
            previous=previous,
        )

    def _shed(self, waiting: int) -> str | None:
        """Choose what to leave out: pictures first, then statistics, never scalars."""
        if waiting >= self.settings.shed_statistics_at:
            return "pictures and statistics"
        return "pictures" if waiting >= self.settings.shed_pictures_at else None

    def _report_without_analysis(self, flight: "_Flight", reason: str) -> None:
        """Make the report from the records alone: scalars survive a worker that does not."""
        self.num_failed += 1
        hellos = self.hellos()
        ranks = [
            RankStep(hellos[rank], delivery.step) for rank, delivery in flight.step.by_rank.items()
        ]
        logger.error("step %d is reported without its analysis: %s", flight.step.step, reason)
        flight.report = assemble(ranks, None, shed=flight.shed, failures={WORKER_STAGE: reason})
        flight.folder, flight.lacks_folder = folder_name(ranks[0].step), True


@dataclass(slots=True)
class _Flight:
    step: AlignedStep
    ticket: int | None = None
    report: StepReport | None = None
    memory: GradientMemory | None = None
    shed: str | None = None
    reads_previous: bool = False
    """Whether its job reads the records of the step before."""

    folder: str = ""
    lacks_folder: bool = False
    """Whether no worker has written its folder, and none will."""

    is_complete: bool = False

    @property
    def records(self) -> tuple[RecordRef, ...]:
        return tuple(RecordRef(d.segment, d.start) for d in self.step.by_rank.values())
