"""An error that nobody foresaw costs the run in which it happened."""

from pathlib import Path

import pytest
from daemon_process import wait_until
from fake_trainer import FakeRank, make_hello
from written import load, steps

from trackside.wire.segment import remove
from tracksided.app import Daemon
from tracksided.checkpoints.outcomes import AverageEvent
from tracksided.config import Settings
from tracksided.outputs import RunOutputs
from tracksided.runs import Run, State

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("method", ["advance", "note_machine"])
def test_a_run_that_breaks_leaves_the_others_alone(
    shm_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    method: str,
) -> None:
    ranks = [FakeRank(shm_dir, make_hello(tmp_path / n, run=n), nonce=n) for n in ("bad", "good")]
    for rank in ranks:
        rank.publish(1)
        rank.close()
    sound = getattr(Run, method)

    def break_bad(self: Run, *arguments: object) -> None:
        if self.run_id == "bad" and self.state is State.RUNNING:
            raise ZeroDivisionError("unforeseen")
        sound(self, *arguments)

    monkeypatch.setattr(Run, method, break_bad)
    daemon = Daemon(shm_dir, Settings)

    def serve() -> bool:
        daemon._turn(0.01)
        return not ranks[1].writer.path.exists()

    wait_until(serve)
    daemon._drain()
    daemon._write_status(1e9)
    (status,) = load(shm_dir / "status.json")["runs"]
    daemon._close()

    assert steps(tmp_path / "good") == [1]
    assert (status["run"], status["state"]) == ("bad", "broken")
    assert status["problem"].startswith("ZeroDivisionError: unforeseen")
    assert len([entry for entry in caplog.records if entry.exc_info]) == 1
    assert ranks[0].writer.path.exists()  # the next daemon may do better
    remove(ranks[0].writer.path)


def test_an_average_that_cannot_be_noted_costs_its_run_alone(
    shm_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = tmp_path / "checkpoints"
    hellos = [
        make_hello(tmp_path / "bad", run="bad", checkpoints=(str(checkpoints),)),
        make_hello(tmp_path / "good", run="good"),
    ]
    bad, good = (FakeRank(shm_dir, hello, nonce=hello.run) for hello in hellos)
    bad.publish(1)
    good.publish(1)
    daemon = Daemon(shm_dir, Settings)
    event = AverageEvent(checkpoints, "bad", checkpoints / "a.pt", 1, ("step_1.pt",), 0.1, None)

    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("unforeseen")

    monkeypatch.setattr(RunOutputs, "note_average", fail)
    wait_until(lambda: daemon._turn(0.01) or steps(tmp_path / "bad") == [1])
    daemon._note_average(event)
    bad.close()
    good.close()
    wait_until(lambda: daemon._turn(0.01) or not good.writer.path.exists())

    (run,) = daemon._intake.runs
    assert (run.run_id, run.state) == ("bad", State.BROKEN)
    daemon._close()
    remove(bad.writer.path)
