"""An error that nobody foresaw costs the run in which it happened."""

from pathlib import Path

import pytest
from daemon_process import wait_until
from fake_trainer import FakeRank, make_hello
from written import load, steps

from trackside.wire.segment import remove
from tracksided.app import Daemon
from tracksided.config import Settings
from tracksided.runs import Run, State

pytestmark = pytest.mark.integration


def test_a_run_that_breaks_leaves_the_others_alone(
    shm_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    ranks = [FakeRank(shm_dir, make_hello(tmp_path / n, run=n), nonce=n) for n in ("bad", "good")]
    for rank in ranks:
        rank.publish(1)
        rank.close()
    advance = Run.advance

    def break_bad(self: Run, *arguments: object) -> None:
        if self.run_id == "bad" and self.state is State.RUNNING:
            raise ZeroDivisionError("unforeseen")
        advance(self, *arguments)

    monkeypatch.setattr(Run, "advance", break_bad)
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
