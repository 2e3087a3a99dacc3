"""What a daemon keeps of runs that are over: nothing, after a while."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from daemon_process import wait_until
from fake_trainer import FakeRank, make_hello

from tracksided.app import LINGER_S, Daemon
from tracksided.checkpoints.service import MAX_RETRY_S
from tracksided.config import Settings

pytestmark = pytest.mark.integration


def test_checkpoints_that_could_not_be_averaged_are_watched_until_they_are(
    shm_dir: Path, tmp_path: Path
) -> None:
    checkpoints = tmp_path / "checkpoints"
    (checkpoints / "averaged_model.pt" / "in the way").mkdir(parents=True)
    for step in (1, 2, 3):
        torch.save({"w": torch.full((3,), float(step))}, checkpoints / f"step_{step}.pt")
    hello = make_hello(tmp_path / "out", checkpoints=(str(checkpoints),))
    rank = FakeRank(shm_dir, hello)
    now = 0.0
    daemon = Daemon(shm_dir, Settings, clock=lambda: now)

    def turn_until(condition: Callable[[], bool]) -> None:
        def is_met() -> bool:
            daemon._turn(0.01)
            return condition()

        wait_until(is_met)

    def is_idle() -> bool:
        return not daemon._checkpoints.is_busy()

    rank.publish(1)
    rank.close(steps=1)
    turn_until(lambda: not rank.writer.path.exists())
    for _ in range(3):
        now += LINGER_S + 1
        turn_until(is_idle)
    assert daemon._checkpoints.is_retrying(checkpoints)

    (checkpoints / "averaged_model.pt" / "in the way").rmdir()
    (checkpoints / "averaged_model.pt").rmdir()
    now += MAX_RETRY_S
    turn_until((checkpoints / "averaged_model.json").exists)
    turn_until(is_idle)
    now += LINGER_S + 1
    turn_until(is_idle)
    left = daemon._checkpoints.status()["directories"]
    daemon._close()

    assert left == []


def test_checkpoints_of_a_finished_run_are_watched_for_a_while_and_then_let_go(
    shm_dir: Path, tmp_path: Path
) -> None:
    directories = {name: tmp_path / name for name in ("over", "going on")}
    ranks = {
        name: FakeRank(
            shm_dir,
            make_hello(tmp_path / f"out {name}", run=name[:4], checkpoints=(str(path),)),
            nonce=name[:4],
        )
        for name, path in directories.items()
    }
    now = 0.0
    daemon = Daemon(shm_dir, Settings, clock=lambda: now)

    def watched() -> set[str]:
        entries = daemon._checkpoints.status()["directories"]
        return {Path(entry["directory"]).name for entry in entries}

    def turn_until_the_segment_is_gone(rank: FakeRank) -> None:
        def is_gone() -> bool:
            daemon._turn(0.01)
            return not rank.writer.path.exists()

        wait_until(is_gone)

    for rank in ranks.values():
        rank.publish(1)
    ranks["over"].close()
    turn_until_the_segment_is_gone(ranks["over"])
    now = LINGER_S - 1
    daemon._turn(0)
    before = watched()
    now = LINGER_S + 1
    daemon._turn(0)
    after = watched()
    ranks["going on"].close()
    turn_until_the_segment_is_gone(ranks["going on"])
    daemon._close()

    assert before == {"over", "going on"}
    assert after == {"going on"}
