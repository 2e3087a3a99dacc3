"""Worker processes under supervision: bounded time and memory, restart with backoff, quarantine.

Why not `concurrent.futures`: one killed worker breaks its whole pool, and its workers outlive a
killed daemon.
"""

import logging
import sys
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from tracksided.config import WorkerSettings
from tracksided.jobs import AnyJob, JobFailed, Outcome
from tracksided.priority import SINGLE_THREADED
from tracksided.talking import TalkingChild

logger = logging.getLogger(__name__)

COMMAND = (sys.executable, "-P", "-m", "tracksided.worker")
MAX_DEATHS = 2  # of workers on one job, then it is given up
FIRST_BACKOFF_S = 0.5
MAX_BACKOFF_S = 30.0
MAX_DOUBLINGS = 16  # far beyond the longest wait, and no float overflows

Ticket = int


class WorkerPool:
    """Runs jobs in worker processes. One thread calls it; no call waits for a worker."""

    def __init__(self, settings: WorkerSettings, command: Sequence[str] = COMMAND) -> None:
        self._settings = settings
        self._command = tuple(command)
        self._waiting: deque[_Task] = deque()
        self._workers: list[_WorkerProcess] = []
        self._next_ticket = 1
        self._failures_in_row = 0
        self._start_after = 0.0
        self.deaths = 0
        """Workers that ended unasked since the start."""

    def configure(self, settings: WorkerSettings) -> None:
        """Take other settings from the next job on; workers finish what they are at, and end."""
        self._settings = settings
        for worker in self._workers:
            worker.is_outdated = True

    @property
    def has_room(self) -> bool:
        """Whether another job would start soon: at most one waits for each worker."""
        return len(self._waiting) + self._num_busy < 2 * self._settings.count

    @property
    def is_idle(self) -> bool:
        """Whether no job waits or runs."""
        return not self._waiting and not self._num_busy

    def submit(self, job: AnyJob) -> Ticket:
        """Queue a job; its outcome comes from `poll` under the returned number."""
        ticket = self._next_ticket
        self._next_ticket += 1
        self._waiting.append(_Task(ticket, job))
        return ticket

    def poll(self, now: float) -> list[tuple[Ticket, Outcome]]:
        """Collect outcomes, end what takes too long, and start what waits.

        Args:
            now: monotonic seconds.
        """
        done: list[tuple[Ticket, Outcome]] = []
        for worker in list(self._workers):
            outcome = self._look_at(worker, now)
            if outcome is not None:
                done.append(outcome)
        self._start_waiting(now)
        return done

    def pids(self) -> tuple[int, ...]:
        """Return the process ids of the workers that run."""
        return tuple(worker.pid for worker in self._workers)

    def close(self) -> None:
        """End all workers; what they were doing is dropped."""
        for worker in self._workers:
            worker.end()
        self._workers.clear()
        self._waiting.clear()

    @property
    def _num_busy(self) -> int:
        return sum(worker.task is not None for worker in self._workers)

    def _look_at(self, worker: "_WorkerProcess", now: float) -> tuple[Ticket, Outcome] | None:
        answer = worker.answer()
        if answer is None:
            task = worker.task
            if task is None or now < worker.deadline:
                return None
            reason = f"the analysis took longer than {self._settings.job_seconds:g} s"
            self._remove(worker)
            return self._give_up(task, reason)
        if isinstance(answer, Outcome):
            task, worker.task = worker.task, None
            self._failures_in_row = 0
            return None if task is None else (task.ticket, answer)
        return self._buried(worker, now)

    def _buried(self, worker: "_WorkerProcess", now: float) -> tuple[Ticket, Outcome] | None:
        """Take note of a worker that ended unasked."""
        task = worker.task
        reason = self._remove(worker)
        self.deaths += 1
        self._failures_in_row += 1
        backoff_s = self._back_off(now)
        logger.warning("%s; another starts in %.1f s", reason, backoff_s)
        if task is None:
            return None
        task.deaths += 1
        if task.deaths >= MAX_DEATHS:
            return self._give_up(task, f"{reason}, for the second time on this job")
        self._waiting.appendleft(task)
        return None

    def _give_up(self, task: "_Task", reason: str) -> tuple[Ticket, Outcome]:
        return task.ticket, JobFailed(reason, is_output=False)

    def _remove(self, worker: "_WorkerProcess") -> str:
        self._workers.remove(worker)
        return worker.end()

    def _start_waiting(self, now: float) -> None:
        for outdated in [entry for entry in self._workers if entry.is_outdated]:
            if outdated.task is None:
                self._remove(outdated)
        while self._waiting:
            worker = next((entry for entry in self._workers if entry.task is None), None)
            if worker is None:
                if len(self._workers) >= self._settings.count or now < self._start_after:
                    return
                worker = self._start(now)
                if worker is None:
                    return
            task = self._waiting.popleft()
            worker.give(task, now + self._settings.job_seconds)

    def _start(self, now: float) -> "_WorkerProcess | None":
        """Start a worker; None where the system has nothing left for one now."""
        try:
            worker = _WorkerProcess(self._command, self._settings.memory_bytes)
        except (OSError, RuntimeError) as error:  # RuntimeError: no thread can be started
            self._failures_in_row += 1
            backoff_s = self._back_off(now)
            logger.error(  # noqa: TRY400 - no traceback for the user
                "no worker can be started, tried again in %.1f s: %s", backoff_s, error
            )
            return None
        self._workers.append(worker)
        return worker

    def _back_off(self, now: float) -> float:
        doublings = min(self._failures_in_row - 1, MAX_DOUBLINGS)
        backoff_s = min(FIRST_BACKOFF_S * 2.0**doublings, MAX_BACKOFF_S)
        self._start_after = now + backoff_s
        return backoff_s


@dataclass(slots=True)
class _Task:
    ticket: Ticket
    job: AnyJob
    deaths: int = 0


class _WorkerProcess:
    """One worker and what it is at."""

    def __init__(self, command: Sequence[str], memory_bytes: int) -> None:
        self._child = TalkingChild(command, str(memory_bytes), environ=SINGLE_THREADED)
        self.task: _Task | None = None
        self.deadline = 0.0
        self.is_outdated = False
        """Whether it was started by other settings than those that hold now."""

    @property
    def pid(self) -> int:
        return self._child.process.pid

    def give(self, task: "_Task", deadline: float) -> None:
        """Send a job; a worker that is gone already shows in `answer`."""
        self.task, self.deadline = task, deadline
        self._child.send(task.job)

    def answer(self) -> object | None:
        """Return what the worker sent, `EOFError` where it ended, None where it is silent."""
        return self._child.answer()

    def end(self) -> str:
        """End the process and say how it ended."""
        how = self._child.end(gently=self.task is None)
        return f"an analysis worker (pid {self.pid}) {how}"
