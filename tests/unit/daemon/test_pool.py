"""Worker processes that crash, hang or disappear."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tracksided.config import WorkerSettings
from tracksided.jobs import Job, JobDone, JobFailed
from tracksided.pool import Outcome, WorkerPool

pytestmark = pytest.mark.integration

# Answers each job by its output directory's name: fail, die, hang.
WORKER = """
import os, sys, time
from multiprocessing.connection import Connection
from tracksided.jobs import JobFailed
with Connection(int(sys.argv[1])) as connection:
    while True:
        try:
            job = connection.recv()
        except EOFError:
            break
        name = job.output_dir.name
        if name == "die":
            os._exit(9)
        if name == "hang":
            time.sleep(600)
        if name == "die-once" and not job.output_dir.exists():
            job.output_dir.mkdir()
            os._exit(9)
        connection.send(JobFailed(f"pid {os.getpid()}", is_output=False))
"""

MakePool = Callable[..., WorkerPool]


@pytest.fixture
def make_pool() -> Iterator[MakePool]:
    pools: list[WorkerPool] = []

    def make(**settings: float) -> WorkerPool:
        pools.append(
            WorkerPool(WorkerSettings(**settings), [sys.executable, "-P", "-c", WORKER])  # type: ignore[arg-type]  # numbers
        )
        return pools[-1]

    yield make
    for pool in pools:
        pool.close()


def make_job(directory: Path) -> Job:
    return Job(
        records=(),
        output_dir=directory,
        with_pictures=True,
        with_statistics=True,
        shed=None,
        previous=None,
    )


def wait_for(pool: WorkerPool, clock: Callable[[], float] = time.monotonic) -> dict[int, Outcome]:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        done = pool.poll(clock())
        if done:
            return dict(done)
        time.sleep(0.005)
    pytest.fail("no answer within a minute")


def reason(outcome: Outcome) -> str:
    assert not isinstance(outcome, JobDone)
    return outcome.reason


def test_answers_come_under_their_tickets(make_pool: MakePool, tmp_path: Path) -> None:
    pool = make_pool()
    tickets = [pool.submit(make_job(tmp_path)) for _ in range(3)]

    outcomes: dict[int, Outcome] = {}
    while len(outcomes) < 3:
        outcomes |= wait_for(pool)

    assert sorted(outcomes) == sorted(tickets)
    assert pool.is_idle
    assert len({reason(outcome) for outcome in outcomes.values()}) == 1  # one worker did all


def test_job_whose_worker_died_is_done_by_the_next_one(make_pool: MakePool, tmp_path: Path) -> None:
    pool = make_pool()
    ticket = pool.submit(make_job(tmp_path / "die-once"))

    outcome = wait_for(pool)[ticket]

    assert reason(outcome).startswith("pid")
    assert pool.deaths == 1


def test_job_that_kills_two_workers_is_given_up(make_pool: MakePool, tmp_path: Path) -> None:
    pool = make_pool()
    ticket = pool.submit(make_job(tmp_path / "die"))

    outcome = wait_for(pool)[ticket]

    assert isinstance(outcome, JobFailed)
    assert "exited 9, for the second time" in outcome.reason
    assert not outcome.is_output
    after = pool.submit(make_job(tmp_path))
    assert reason(wait_for(pool)[after]).startswith("pid")


def test_job_that_takes_too_long_costs_its_worker(make_pool: MakePool, tmp_path: Path) -> None:
    pool = make_pool(job_seconds=1000.0)
    ticket = pool.submit(make_job(tmp_path / "hang"))
    pool.poll(time.monotonic())
    (pid,) = pool.pids()

    outcomes = dict(pool.poll(time.monotonic() + 1001))

    assert reason(outcomes[ticket]) == "the analysis took longer than 1000 s"
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_stopped_worker_does_not_stop_the_pool(make_pool: MakePool, tmp_path: Path) -> None:
    pool = make_pool(count=2)
    first = pool.submit(make_job(tmp_path))
    assert first in wait_for(pool)
    (pid,) = pool.pids()
    os.kill(pid, signal.SIGSTOP)
    stuck, other = pool.submit(make_job(tmp_path)), pool.submit(make_job(tmp_path))

    outcomes = wait_for(pool)

    assert other in outcomes
    assert stuck not in outcomes


def test_worker_that_cannot_be_started_is_tried_again_for_weeks(tmp_path: Path) -> None:
    pool = WorkerPool(WorkerSettings(), [str(tmp_path / "no such program")])
    pool.submit(make_job(tmp_path))

    outcomes = [outcome for hour in range(1100) for outcome in pool.poll(3600.0 * hour)]

    assert outcomes == []
    assert not pool.is_idle
    pool.close()


def test_other_settings_hold_from_the_next_job_on(make_pool: MakePool, tmp_path: Path) -> None:
    """Under load there is no moment at which no job waits or runs."""
    pool = make_pool()
    pool.submit(make_job(tmp_path))
    before = {reason(outcome) for outcome in wait_for(pool).values()}
    under_way = pool.submit(make_job(tmp_path))
    pool.poll(time.monotonic())

    pool.configure(WorkerSettings(count=2))
    tickets = [pool.submit(make_job(tmp_path)) for _ in range(2)]
    assert pool.has_room

    outcomes: dict[int, Outcome] = {}
    while len(outcomes) < 3:
        outcomes |= wait_for(pool)
    assert {reason(outcomes[under_way])} == before
    assert not before & {reason(outcomes[ticket]) for ticket in tickets}
    assert pool.deaths == 0
