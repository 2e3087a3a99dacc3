"""Outputs on a file system that takes its time."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from daemon_process import wait_until
from fake_trainer import make_hello, make_step
from written import history, load

from tracksided import patient_outputs, patient_thread
from tracksided.assemble import RankStep, assemble
from tracksided.errors import OutputError, OutputPending
from tracksided.outputs import RunOutputs
from tracksided.patient_outputs import PatientOutputs
from tracksided.patient_thread import SILENT_S
from tracksided.reports import StepReport

AVERAGE = {"output": "averaged_model.pt", "step": 3}


class Server:
    """The file system of a run: it may stop, and it may fail."""

    def __init__(self) -> None:
        self.answers = threading.Event()
        self.answers.set()
        self.error: OutputError | None = None

    def open(self, directory: Path) -> RunOutputs:
        server = self

        class Served(RunOutputs):
            def commit(self, *arguments: object) -> None:
                server.wait()
                super().commit(*arguments)  # type: ignore[arg-type]  # handed on as it came

        self.wait()
        return Served(directory, time.time)

    def wait(self) -> None:
        self.answers.wait()
        if self.error is not None:
            raise self.error


class Site:
    def __init__(self, directory: Path) -> None:
        self.now = 0.0
        self.server = Server()
        self.outputs = PatientOutputs(directory, self.server.open, lambda: self.now)

    def commit(self, step: int) -> None:
        self.outputs.commit(report(self.outputs.directory, step), {0: ("nonce", step)})

    def until_done(self, act: Callable[[], object]) -> None:
        def is_done() -> bool:
            try:
                act()
            except OutputPending:
                return False
            return True

        wait_until(is_done)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setattr(patient_outputs, "WAIT_S", 0.001)
    site = Site(tmp_path / "out")
    yield site
    site.server.answers.set()
    site.outputs.close()


def report(directory: Path, step: int) -> StepReport:
    return assemble([RankStep(make_hello(directory), make_step(step, with_attention=False))], None)


def test_a_call_that_outlasts_the_wait_is_done_once_and_its_end_is_learnt(site: Site) -> None:
    site.until_done(site.outputs.open)
    site.server.answers.clear()
    for _ in range(3):
        with pytest.raises(OutputPending):
            site.commit(1)
        with pytest.raises(OutputPending):
            site.commit(2)  # not begun before the other one has ended
    site.server.answers.set()

    site.until_done(lambda: site.commit(1))
    site.until_done(lambda: site.commit(2))

    assert [line["step"] for line in history(site.outputs.directory)] == [1, 2]


def test_a_result_is_kept_while_something_else_is_asked_for(site: Site) -> None:
    site.until_done(site.outputs.open)
    site.server.answers.clear()
    with pytest.raises(OutputPending):
        site.commit(1)
    site.server.answers.set()

    site.until_done(lambda: site.outputs.begin(make_hello(site.outputs.directory)))
    site.until_done(lambda: site.commit(1))

    assert [line["step"] for line in history(site.outputs.directory)] == [1]


def test_a_failure_is_raised_once_and_the_next_call_tries_again(site: Site) -> None:
    site.server.error = OutputError("no space")
    for _ in range(2):
        with pytest.raises(OutputError, match="no space"):
            site.until_done(site.outputs.open)
    site.server.error = None

    site.until_done(site.outputs.open)

    assert site.outputs.is_open


def test_a_server_that_does_not_answer_is_named_and_so_is_its_return(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    site.until_done(site.outputs.open)
    site.server.answers.clear()
    for site.now in (0.0, SILENT_S / 2, SILENT_S, 2 * SILENT_S):
        with pytest.raises(OutputPending):
            site.commit(1)
    assert site.outputs.is_silent
    problem = str(site.outputs.problem)
    assert problem.startswith(f"{site.outputs.directory} is not written after 10 s")
    site.server.answers.set()

    site.until_done(lambda: site.commit(1))

    assert site.outputs.problem is None
    assert [entry.message for entry in caplog.records] == [
        problem,
        f"{site.outputs.directory}: what took so long is done, going on",
    ]


def test_an_average_is_noted_behind_what_is_under_way(site: Site) -> None:
    site.until_done(site.outputs.open)
    site.server.answers.clear()
    with pytest.raises(OutputPending):
        site.commit(1)
    site.outputs.note_average(AVERAGE, (), ())
    site.server.answers.set()

    site.outputs.close()

    assert load(site.outputs.directory / "run.json")["averages"] == [AVERAGE]


def test_closing_does_not_wait_for_a_server_that_does_not_answer(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patient_thread, "CLOSE_WAIT_S", 0.01)
    site.server.answers.clear()
    with pytest.raises(OutputPending):
        site.outputs.open()

    site.outputs.close()

    assert not site.outputs.is_open
