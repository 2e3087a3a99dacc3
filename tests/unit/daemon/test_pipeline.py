"""The flow of one run's steps."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from fake_trainer import make_hello, make_step
from written import load

from tracksided.assemble import RankStep, assemble
from tracksided.config import WorkerSettings
from tracksided.errors import OutputError, OutputPending
from tracksided.gradient_memory import GradientMemory
from tracksided.ingest.aligner import Aligned
from tracksided.ingest.stream import Delivery
from tracksided.jobs import Job, JobDone, JobFailed
from tracksided.pipeline import Pipeline
from tracksided.reports import StepReport
from tracksided.sinks.folder import write_step_folder


@dataclass
class FakePool:
    room: int = 100
    jobs: list[Job] = field(default_factory=list)

    @property
    def has_room(self) -> bool:
        return len(self.jobs) < self.room

    def submit(self, job: Job) -> int:
        self.jobs.append(job)
        return len(self.jobs)


@dataclass
class FakeOutputs:
    directory: Path
    error: OutputError | None = None
    is_silent: bool = False
    committed: list[tuple[int, dict[int, tuple[str, int]]]] = field(default_factory=list)
    reports: list[StepReport] = field(default_factory=list)

    def write_folder(self, folder: str, statistics: Mapping[str, object] | None) -> None:
        if self.error is not None:
            raise self.error
        write_step_folder(self.directory, folder, statistics=statistics, pictures=(), raw=())

    def commit(self, report: StepReport, records: dict[int, tuple[str, int]]) -> None:
        if self.error is not None:
            raise self.error
        self.committed.append((report.step, records))
        self.reports.append(report)


@pytest.fixture
def outputs(tmp_path: Path) -> FakeOutputs:
    return FakeOutputs(tmp_path)


@pytest.fixture
def pipeline(outputs: FakeOutputs) -> Pipeline:
    settings = WorkerSettings(shed_pictures_at=3, shed_statistics_at=5)
    return Pipeline(outputs, settings, lambda: {0: make_hello(outputs.directory)})


def aligned(step: int) -> Aligned[Delivery]:
    delivery = Delivery(
        rank=0,
        segment=Path("/dev/shm/x.ring"),  # noqa: S108 - a name only
        nonce="n",
        sequence=step,
        start=64 * step,
        end=64 * step + 64,
        step=make_step(step),
    )
    return Aligned(step, {0: delivery})


def done(step: int, memory: GradientMemory | None = None) -> JobDone:
    rank = RankStep(make_hello(Path("/out")), make_step(step))
    return JobDone(assemble([rank], None), memory)


def test_steps_are_committed_in_order_whatever_finishes_first(
    pipeline: Pipeline, outputs: FakeOutputs
) -> None:
    pool = FakePool()
    for step in (1, 2, 3):
        pipeline.add(aligned(step))
    pipeline.dispatch(pool, 0.0)
    pipeline.receive(3, done(3), 0.0)
    pipeline.receive(2, done(2), 0.0)

    assert pipeline.commit(0.0) == []

    pipeline.receive(1, done(1), 0.0)
    assert [entry.step for entry in pipeline.commit(0.0)] == [1, 2, 3]
    assert outputs.committed == [(step, {0: ("n", step)}) for step in (1, 2, 3)]
    assert pipeline.is_empty


def test_each_step_is_given_the_gradient_of_the_one_before(pipeline: Pipeline) -> None:
    """From shared memory while that is not committed, from what was kept of it afterwards."""
    pool = FakePool()
    pipeline.add(aligned(1))
    pipeline.add(aligned(2))
    pipeline.dispatch(pool, 0.0)
    memory = GradientMemory(2, (), (), (), (), ())
    for step in (1, 2):
        pipeline.receive(step, done(step, memory if step == 2 else None), 0.0)
    pipeline.commit(0.0)
    pipeline.add(aligned(3))
    pipeline.dispatch(pool, 0.0)
    pipeline.receive(3, done(3), 0.0)  # without gradients: the memory of step 2 stays
    pipeline.commit(0.0)
    pipeline.add(aligned(4))
    pipeline.dispatch(pool, 0.0)

    assert [job.previous for job in pool.jobs] == [None, pool.jobs[0].records, memory, memory]


def test_records_stay_while_the_next_step_is_compared_with_them(pipeline: Pipeline) -> None:
    pool = FakePool()
    for step in (1, 2, 3):
        pipeline.add(aligned(step))
    pipeline.dispatch(pool, 0.0)
    settled = []
    for step in (1, 2, 3):
        pipeline.receive(step, done(step), 0.0)
        settled.append([entry.step for entry in pipeline.commit(0.0)])

    assert settled == [[], [1], [2, 3]]


def test_no_more_is_handed_out_than_workers_take(pipeline: Pipeline) -> None:
    pool = FakePool(room=1)
    pipeline.add(aligned(1))
    pipeline.add(aligned(2))

    pipeline.dispatch(pool, 0.0)

    assert len(pool.jobs) == 1
    assert pipeline.num_waiting == 1


def test_pictures_are_shed_before_statistics(pipeline: Pipeline) -> None:
    pool = FakePool()
    for step in range(1, 7):
        pipeline.add(aligned(step))

    pipeline.dispatch(pool, 0.0)

    shown = [(job.with_pictures, job.with_statistics) for job in pool.jobs]
    # 6 and 5 wait: neither; 4 and 3: no pictures; 2 and 1: all.
    assert shown == [(False, False)] * 2 + [(False, True)] * 2 + [(True, True)] * 2
    assert pipeline.num_shed == 4


def test_step_survives_a_worker_that_does_not(pipeline: Pipeline, outputs: FakeOutputs) -> None:
    pipeline.add(aligned(4))
    pipeline.dispatch(FakePool(), 0.0)

    pipeline.receive(1, JobFailed("killed by signal 9", is_output=False), 0.0)
    pipeline.commit(0.0)

    (report,) = outputs.reports
    assert report.history["loss"] == 2.5
    assert report.history["failures"] == {"worker": "killed by signal 9"}
    statistics = load(outputs.directory / "step_4" / "statistics.json")
    assert statistics["gradients"]["norm_before_clip"] == 2.0


def test_folder_without_analysis_waits_for_its_file_system(
    pipeline: Pipeline, outputs: FakeOutputs
) -> None:
    pipeline.add(aligned(4))
    pipeline.dispatch(FakePool(), 0.0)
    pipeline.receive(1, JobFailed("took longer", is_output=False), 0.0)
    outputs.error = OutputPending("being written")
    assert pipeline.commit(0.0) == []
    assert pipeline.retry.problem is None
    assert not (outputs.directory / "step_4").exists()
    outputs.error = None

    assert [entry.step for entry in pipeline.commit(0.0)] == [4]

    assert (outputs.directory / "step_4" / "statistics.json").exists()


def test_no_worker_is_sent_to_a_file_system_that_does_not_answer(
    pipeline: Pipeline, outputs: FakeOutputs
) -> None:
    pool = FakePool()
    pipeline.add(aligned(1))
    outputs.is_silent = True
    pipeline.dispatch(pool, 0.0)
    assert pool.jobs == []
    outputs.is_silent = False

    pipeline.dispatch(pool, 0.0)

    assert len(pool.jobs) == 1


def test_step_whose_folder_cannot_be_written_is_done_again_later(pipeline: Pipeline) -> None:
    pool = FakePool()
    pipeline.add(aligned(1))
    pipeline.dispatch(pool, 0.0)
    pipeline.receive(1, JobFailed("disk full", is_output=True), 0.0)
    pipeline.dispatch(pool, 0.9)
    assert len(pool.jobs) == 1
    assert pipeline.retry.problem == "disk full"

    pipeline.dispatch(pool, 1.0)

    pipeline.receive(2, done(1), 1.0)
    assert [entry.step for entry in pipeline.commit(1.0)] == [1]
    assert pipeline.retry.problem is None


def test_commit_that_fails_is_tried_again_with_growing_patience(
    pipeline: Pipeline, outputs: FakeOutputs
) -> None:
    pipeline.add(aligned(1))
    pipeline.dispatch(FakePool(), 0.0)
    pipeline.receive(1, done(1), 0.0)
    outputs.error = OutputError("no space")

    assert pipeline.commit(0.0) == []
    assert pipeline.commit(1.0) == []
    assert pipeline.retry.not_before == 3.0
    outputs.error = None

    assert pipeline.commit(2.9) == []
    assert [entry.step for entry in pipeline.commit(3.0)] == [1]


def test_steps_that_fail_in_turns_are_told_once_until_all_is_well(
    pipeline: Pipeline, caplog: pytest.LogCaptureFixture
) -> None:
    retry = pipeline.retry
    for now in range(4):
        for step in (1, 2):
            retry.failed(f"cannot write step_{step}", float(now))
    assert len(caplog.records) == 2
    retry.succeeded()

    retry.failed("cannot write step_1", 5.0)

    levels = [entry.levelname for entry in caplog.records]
    assert levels == ["ERROR", "ERROR", "WARNING", "ERROR"]


def test_what_only_this_process_knows_is_added_once(
    pipeline: Pipeline, outputs: FakeOutputs
) -> None:
    """The rules must not see a step again because a disk was full."""
    seen: list[int] = []

    def complete(report: StepReport) -> StepReport:
        seen.append(report.step)
        return report

    pipeline.complete = complete
    pipeline.add(aligned(10))
    pipeline.dispatch(FakePool(), 0.0)
    pipeline.receive(1, done(10), 0.0)
    outputs.error = OutputError("full")
    pipeline.commit(0.0)
    outputs.error = None

    pipeline.commit(100.0)

    assert seen == [10]
    assert [step for step, _ in outputs.committed] == [10]


def test_answer_for_another_run_is_not_taken(pipeline: Pipeline) -> None:
    assert not pipeline.receive(1, done(1), 0.0)
