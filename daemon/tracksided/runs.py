"""One run from its first segment to its totals."""

import enum
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from trackside.wire.segment import writer_pid
from tracksided.alerting import RunAlerting
from tracksided.config import Settings
from tracksided.errors import OutputError, OutputPending
from tracksided.ingest.generation import Generation
from tracksided.monitors.monitor import Watched
from tracksided.monitors.reading import HostReading, of_ranks
from tracksided.overviews import Overviews
from tracksided.patient_outputs import PatientOutputs
from tracksided.pipeline import Pipeline, Retry
from tracksided.pool import WorkerPool
from tracksided.reporting import FinalReport
from tracksided.reports import Alert, StepReport
from tracksided.rule_evaluator import RuleEvaluator
from tracksided.summaries import Finale, final_scalars, final_texts
from tracksided.totals import leader_close, run_totals
from tracksided.training_settings import add_training_settings

logger = logging.getLogger(__name__)

# Of `visualize`: what is made of all steps together; see `tracksided.catalog`.
OVERVIEW_WORDS = ("animation", "entropy")
FLUSH_LIMIT_S = 600.0  # how long the end of a run waits for its last averaging


class State(enum.Enum):
    """Where a run is; it only ever goes to the next state."""

    OPENING = "opening"
    """Its output directory has not been opened yet."""

    RUNNING = "running"
    ENDING = "ending"
    """All steps are written; a last averaging, overview and the report may be under way."""

    FINISHED = "finished"
    BROKEN = "broken"
    """Something unforeseen happened to it; its segments stay for the next daemon."""


@dataclass(frozen=True, slots=True)
class _Opened:
    """What serves a run once its output directory is open."""

    pipeline: Pipeline
    alerting: RunAlerting


class Run:
    """A generation, its pipeline and its outputs. One thread."""

    def __init__(
        self,
        generation: Generation,
        settings: Settings,
        outputs: PatientOutputs,
        tell: Callable[[Alert], None],
        wall_clock: Callable[[], float],
    ) -> None:
        """Begin; outputs are opened by the first `advance`.

        Args:
            generation: the ranks of one start of the job.
            settings: of the daemon.
            outputs: where it writes, opened or not; shared by all runs of a directory.
            tell: sends a committed alert to the channels; does not wait.
            wall_clock: Unix time in seconds.
        """
        self.generation = generation
        self.state = State.OPENING
        self.directory = outputs.directory
        self._settings = settings
        self._outputs = outputs
        self._tell = tell
        self._wall_clock = wall_clock
        self._reading: HostReading | None = None
        self._pids: dict[int, int] = {}  # of all trainers that were seen running, to their rank
        self._retry = Retry()
        self._opened: _Opened | None = None
        words = [word for word in generation.hello.visualize if word in OVERVIEW_WORDS]
        self._overviews = Overviews(self.directory, tuple(words))
        self._report = FinalReport(self.directory)
        self._end_deadline = 0.0
        self._defect: str | None = None

    @property
    def run_id(self) -> str:
        """Name of the run."""
        return self.generation.hello.run

    @property
    def started_at(self) -> int:
        """When its trainer attached, in whole Unix seconds."""
        return int(self.generation.hello.started_at)

    @property
    def checkpoint_directories(self) -> tuple[Path, ...]:
        """Directories that any of its ranks announced, to be averaged by this daemon.

        Nodes share them: were each to average, they would all write the same file. The first does.
        """
        announced = (
            name
            for stream in self.generation.streams
            if stream.hello.node_rank == 0
            for name in stream.hello.checkpoints
        )
        return tuple(Path(name) for name in dict.fromkeys(announced))

    @property
    def num_waiting(self) -> int:
        """Steps that wait for a worker."""
        return 0 if self._opened is None else self._opened.pipeline.num_waiting

    @property
    def dispatched_at(self) -> float:
        """When a worker was asked last, in monotonic seconds."""
        return float("-inf") if self._opened is None else self._opened.pipeline.dispatched_at

    @property
    def has_work(self) -> bool:
        """Whether steps are on their way to the disk."""
        is_moving = self.state is not State.BROKEN
        return is_moving and self._opened is not None and not self._opened.pipeline.is_empty

    @property
    def is_alive(self) -> bool:
        """Whether any of its trainers still runs."""
        return any(not stream.is_left for stream in self.generation.streams)

    @property
    def problem(self) -> str | None:
        """Why outputs cannot be written now, or who else writes them."""
        if self._defect is not None:
            return self._defect
        retries = [self._retry]
        if self._opened is not None:
            retries.append(self._opened.pipeline.retry)
        problems = (entry.problem for entry in retries if entry.problem is not None)
        return next(problems, self._outputs.problem)

    def advance(self, pool: WorkerPool, now: float) -> None:
        """Do all that can be done without waiting."""
        if self.state is State.OPENING:
            self._open(now)
        if self.state is State.RUNNING and self._opened is not None:
            for step in self.generation.take(now, self._outputs.progress):
                self._opened.pipeline.add(step)
            self._move(self._opened, pool, now)

    def receive(self, ticket: int, outcome: Any, now: float) -> bool:
        """Take a worker's answer; False if it is not for this run.

        Args:
            ticket: what the pool called the job.
            outcome: of the job.
            now: monotonic seconds.
        """
        if self._overviews.receive(ticket, outcome) or self._report.receive(ticket, outcome):
            return True
        return self._opened is not None and self._opened.pipeline.receive(ticket, outcome, now)

    def end(self, pool: WorkerPool, now: float, *, is_averaging: bool) -> bool:
        """End a run whose steps are all written; True when done.

        First its totals are written, once nothing is averaged, then its last overview and its
        final report.
        """
        outputs, opened = self._outputs, self._opened
        if self.state is not State.ENDING or opened is None or now < self._retry.not_before:
            return False
        if is_averaging and now < self._end_deadline:
            return False
        nonces = self.generation.nonces
        try:
            if not outputs.is_finished(nonces):
                finale = self._finale(opened.alerting)
                outputs.finish(finale.totals, final_scalars(finale), final_texts(finale), nonces)
            if not self._overviews.finish(pool, self._num_committed()):
                return False
            if not outputs.is_reported(nonces):
                if not self._report.finish(pool):
                    return False
                outputs.note_report(nonces)
        except OutputError as error:
            if not isinstance(error, OutputPending):
                self._retry.failed(str(error), now)
            return False
        self.state = State.FINISHED
        logger.info("run %s is over, see %s", self.run_id, self.directory)
        return True

    def break_off(self, error: Exception) -> None:
        """Leave the run alone after an unforeseen error: other runs go on."""
        self.state = State.BROKEN
        self._defect = (
            f"{type(error).__name__}: {error}; the run is left to the next daemon: restart this one"
        )
        logger.error("run %s is not served any more", self.run_id, exc_info=error)

    def watched(self) -> Watched:
        """Return what the monitors shall look at for this run."""
        found = (
            (writer_pid(each.reader.path), each.hello.rank) for each in self.generation.streams
        )
        ranks = {pid: rank for pid, rank in found if pid is not None}
        self._pids |= ranks
        places = dict.fromkeys((self.directory, *self.checkpoint_directories))
        return Watched(ranks=ranks, paths=tuple(map(str, places)))

    def note_machine(self, reading: HostReading | None) -> None:
        """Take the newest reading of the machine, for the steps that are committed from now on."""
        self._reading = reading
        if reading is not None and self._opened is not None and self.state is State.RUNNING:
            self._opened.alerting.look_at_machine(of_ranks(reading, self._pids))

    def configure(self, settings: Settings) -> None:
        """Take other settings of the alerts; the others hold from the start of a run on."""
        self._settings = replace(self._settings, alerts=settings.alerts)
        if self._opened is not None:
            self._opened.alerting.evaluator.configure(settings.alerts)

    def note_average(self, error: str | None) -> None:
        """Take the outcome of an averaging of this run's checkpoints: why it failed, or None."""
        if self._opened is not None:
            self._opened.alerting.note_average(error)

    def close(self, *, remove_segments: bool) -> None:
        """Let go of the segments."""
        for stream in self.generation.streams:
            stream.close(remove=remove_segments)

    def status(self) -> dict[str, Any]:
        """Return what `trackside status` shows."""
        health = [stream.health() for stream in self.generation.streams]
        opened = self._opened
        return {
            "run": self.run_id,
            "state": self.state.value,
            "directory": str(self.directory),
            "world_size": self.generation.hello.world_size,
            "last_step": max((entry.last_step for entry in health), default=0),
            "committed_step": self._last_committed(),
            "waiting": self.num_waiting,
            "late": self.generation.late,
            "shed": 0 if opened is None else opened.pipeline.num_shed,
            "failed": 0 if opened is None else opened.pipeline.num_failed,
            "problem": self.problem,
            "alerts": [] if opened is None else opened.alerting.status(),
            "ranks": [
                {
                    "rank": entry.rank,
                    "pid": entry.pid,
                    "alive": entry.is_alive,
                    "last_step": entry.last_step,
                    "lag_bytes": entry.lag_bytes,
                    "drops": entry.drops,
                    "corrupt": entry.corrupt_records,
                    "torn": entry.torn_records,
                    "problem": entry.failure,
                }
                for entry in sorted(health, key=lambda entry: entry.rank)
            ],
        }

    def _open(self, now: float) -> None:
        if now < self._retry.not_before:
            return
        outputs = self._outputs
        try:
            outputs.open()
            if not outputs.is_finished(self.generation.nonces):
                outputs.begin(self.generation.hello)
            evaluator = RuleEvaluator(
                self.run_id,
                self._settings.alerts,
                lines=outputs.newest_lines(),
                alerts=outputs.alerts,
                started_at=self.generation.hello.started_at,
            )
        except OutputPending:
            return
        except OutputError as error:
            self._retry.failed(str(error), now)
            return
        self._retry.succeeded()
        alerting = RunAlerting(evaluator, outputs, self._tell, self._wall_clock)
        complete = partial(self._complete, alerting)
        pipeline = Pipeline(outputs, self._settings.workers, self._hellos, complete=complete)
        self._opened = _Opened(pipeline, alerting)
        self.state = State.RUNNING
        logger.info("run %s writes to %s", self.run_id, self.directory)

    def _move(self, opened: _Opened, pool: WorkerPool, now: float) -> None:
        """Take the steps that are in the pipeline as far as they get."""
        pipeline, alerting = opened.pipeline, opened.alerting
        pipeline.dispatch(pool, now)
        for step in pipeline.commit(now):
            self.generation.settle(step)
            alerting.committed(step.step)
        newest = max(stream.last_step for stream in self.generation.streams)
        alerting.look_at_trainer(newest, now, self._is_training)
        if pipeline.is_empty:
            self._overviews.keep_up(pool, now, self._num_committed())
        if pipeline.is_empty and self.generation.is_over(now):
            self.state = State.ENDING
            self._end_deadline = now + FLUSH_LIMIT_S

    def _complete(self, alerting: RunAlerting, report: StepReport) -> StepReport:
        narrowed = None if self._reading is None else of_ranks(self._reading, self._pids)
        if not self._num_committed():
            report = add_training_settings(report)
        return alerting.complete(report, narrowed)

    def _is_training(self) -> bool:
        return self.is_alive and all(s.close_record is None for s in self.generation.streams)

    def _hellos(self) -> dict[int, Any]:
        return {stream.hello.rank: stream.hello for stream in self.generation.streams}

    def _num_committed(self) -> int:
        return max(self._outputs.progress(nonce).num_steps for nonce in self.generation.nonces)

    def _last_committed(self) -> int:
        if not self._outputs.is_open:
            return 0
        newest = max(
            map(self._outputs.progress, self.generation.nonces), key=lambda entry: entry.last_line
        )
        return newest.last_step

    def _finale(self, alerting: RunAlerting) -> Finale:
        watched, progress = alerting.evaluator.monitoring, self._outputs.progress
        return Finale(
            totals=run_totals(self.generation, progress, watched.course, watched.verdict),
            close=leader_close(self.generation),
            course=watched.course,
            verdict=watched.verdict,
        )
