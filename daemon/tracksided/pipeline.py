"""The flow of one run's steps: waiting, being analysed, written; always committed in order."""

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from trackside.wire.records import Hello
from tracksided.assemble import RankStep, assemble, folder_name
from tracksided.config import WorkerSettings
from tracksided.errors import OutputError
from tracksided.ingest.aligner import Aligned
from tracksided.ingest.stream import Delivery
from tracksided.jobs import Job, JobDone, JobFailed, RecordRef
from tracksided.reports import StepReport
from tracksided.sinks.folder import write_step_folder

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
    """What the pipeline needs of `tracksided.outputs.RunOutputs`."""

    @property
    def directory(self) -> Path:
        """The output directory."""

    def commit(self, report: StepReport, records: dict[int, tuple[str, int]]) -> None:
        """Write a step durably, or raise `OutputError`."""


@dataclass(slots=True)
class _Flight:
    step: AlignedStep
    ticket: int | None = None
    report: StepReport | None = None
    shed: str | None = None
    is_complete: bool = False


@dataclass(slots=True)
class Retry:
    """When to try again after an output error: twice as late each time."""

    wait_s: float = 0.0
    not_before: float = 0.0
    problem: str | None = None
    """What went wrong last, None while all is well."""

    def failed(self, problem: str, now: float) -> None:
        """Note a failure; it is logged when it is new."""
        self.wait_s = min(max(2 * self.wait_s, FIRST_RETRY_S), MAX_RETRY_S)
        self.not_before = now + self.wait_s
        if problem != self.problem:
            self.problem = problem
            logger.error("%s; nothing is lost, it is tried again", problem)

    def succeeded(self) -> None:
        """Note that the outputs can be written."""
        if self.problem is not None:
            logger.warning("outputs can be written again after: %s", self.problem)
        self.wait_s, self.not_before, self.problem = 0.0, 0.0, None


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
    num_shed: int = 0
    num_failed: int = 0
    """Steps reported without their analysis."""

    _flights: deque[_Flight] = field(default_factory=deque)

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
        if now < self.retry.not_before:
            return
        waiting = self.num_waiting
        for flight in self._flights:
            if flight.ticket is not None or flight.report is not None:
                continue
            if not pool.has_room:
                return
            flight.ticket = pool.submit(self._job(flight, waiting))
            waiting -= 1

    def receive(self, ticket: int, outcome: JobDone | JobFailed, now: float) -> bool:
        """Take a worker's answer; False if it is not for this run."""
        flight = next((entry for entry in self._flights if entry.ticket == ticket), None)
        if flight is None:
            return False
        flight.ticket = None
        if isinstance(outcome, JobDone):
            flight.report = outcome.report
        elif outcome.is_output:
            self.retry.failed(outcome.reason, now)
        else:
            self._report_without_analysis(flight, outcome.reason, now)
        return True

    def commit(self, now: float) -> list[AlignedStep]:
        """Write what is reported, in order; return the steps that are now durable."""
        committed: list[AlignedStep] = []
        while self._flights and now >= self.retry.not_before:
            flight = self._flights[0]
            if flight.report is None:
                break
            records = {
                rank: (delivery.nonce, delivery.sequence)
                for rank, delivery in flight.step.by_rank.items()
            }
            if not flight.is_complete:
                flight.report, flight.is_complete = self.complete(flight.report), True
            try:
                self.outputs.commit(flight.report, records)
            except OutputError as error:
                self.retry.failed(str(error), now)
                break
            self.retry.succeeded()
            self._flights.popleft()
            committed.append(flight.step)
        return committed

    def _job(self, flight: _Flight, waiting: int) -> Job:
        flight.shed = self._shed(waiting)
        if flight.shed is not None:
            self.num_shed += 1
            if self.num_shed == 1:
                logger.warning(
                    "overloaded: %d steps wait; %s are left out until it is better",
                    waiting,
                    flight.shed,
                )
        deliveries = flight.step.by_rank.values()
        return Job(
            records=tuple(RecordRef(entry.segment, entry.start) for entry in deliveries),
            output_dir=self.outputs.directory,
            with_pictures=flight.shed is None,
            with_statistics=flight.shed != "pictures and statistics",
            shed=flight.shed,
        )

    def _shed(self, waiting: int) -> str | None:
        """Choose what to leave out: pictures first, then statistics, never scalars."""
        if waiting >= self.settings.shed_statistics_at:
            return "pictures and statistics"
        return "pictures" if waiting >= self.settings.shed_pictures_at else None

    def _report_without_analysis(self, flight: _Flight, reason: str, now: float) -> None:
        """Make the report from the records alone: scalars survive a worker that does not."""
        self.num_failed += 1
        hellos = self.hellos()
        ranks = [
            RankStep(hellos[rank], delivery.step) for rank, delivery in flight.step.by_rank.items()
        ]
        logger.error("step %d is reported without its analysis: %s", flight.step.step, reason)
        report = assemble(ranks, None, shed=flight.shed, failures={WORKER_STAGE: reason})
        try:
            write_step_folder(
                self.outputs.directory,
                folder_name(ranks[0].step),
                statistics=report.statistics,
                pictures=(),
                raw=(),
            )
        except OutputError as error:
            self.retry.failed(str(error), now)
            return
        flight.report = report
