"""What is still to be done when a run ends."""

import time
from pathlib import Path

import pytest
import torch
from daemon_process import DaemonProcess, wait_until
from fake_trainer import FakeRank, make_hello
from written import load, scalars, steps, texts

from tracksided.checkpoints.job import AverageRequest, run_average

pytestmark = pytest.mark.integration


def test_the_last_average_is_part_of_the_totals(
    shm_dir: Path, tmp_path: Path, daemon: DaemonProcess
) -> None:
    """The run ends with the answer of a worker, and so between two looks at the checkpoints."""
    out, checkpoints = tmp_path / "run", tmp_path / "checkpoints"
    checkpoints.mkdir()
    rank = FakeRank(shm_dir, make_hello(out, checkpoints=(str(checkpoints),)))
    rank.publish(1)
    for step in (1, 2, 3):
        torch.save({"weight": torch.full((3,), float(step))}, checkpoints / f"step_{step}.pt")
    rank.close(steps=1)

    daemon.start()

    wait_until((out / "training_statistics.json").exists)
    wait_until(lambda: not list(shm_dir.glob("*.ring")))
    (average,) = load(out / "training_statistics.json")["averages"]
    assert average["sources"] == ["step_1.pt", "step_2.pt", "step_3.pt"]
    assert torch.load(checkpoints / "averaged_model.pt")["weight"].tolist() == [2.0, 2.0, 2.0]


def make_average(checkpoints: Path) -> None:
    """Do what a daemon does that is killed before it tells anyone."""
    checkpoints.mkdir()
    for step in (1, 2, 3):
        torch.save({"weight": torch.full((3,), float(step))}, checkpoints / f"step_{step}.pt")
    run_average(AverageRequest(directory=checkpoints, patterns=("*.pt",)))


def test_an_average_that_a_killed_daemon_did_not_note_is_noted_once(
    shm_dir: Path, tmp_path: Path, daemon: DaemonProcess
) -> None:
    out, checkpoints = tmp_path / "run", tmp_path / "checkpoints"
    rank = FakeRank(shm_dir, make_hello(out, checkpoints=(str(checkpoints),)))
    make_average(checkpoints)

    for step in (1, 2):
        daemon.start()
        rank.publish(step)
        wait_until((out / "run.json").exists)
        wait_until(lambda: bool(load(out / "run.json")["averages"]))
        wait_until(lambda step=step: steps(out)[-1:] == [step])
        daemon.kill()
    rank.close(steps=2)
    daemon.start()
    wait_until(lambda: not list(shm_dir.glob("*.ring")))

    (average,) = load(out / "training_statistics.json")["averages"]
    assert average["sources"] == ["step_1.pt", "step_2.pt", "step_3.pt"]
    assert scalars(out, "Checkpoints/Averaged") == [(3, 3.0)]


def test_why_an_averaging_failed_stands_at_the_step_of_the_run(
    shm_dir: Path, tmp_path: Path, daemon: DaemonProcess
) -> None:
    out, checkpoints = tmp_path / "run", tmp_path / "checkpoints"
    checkpoints.mkdir()
    (checkpoints / "averaged_model.json").write_text("[]")  # of somebody else
    rank = FakeRank(shm_dir, make_hello(out, checkpoints=(str(checkpoints),)))
    rank.publish(60)
    daemon.start()
    wait_until(lambda: steps(out) == [60])

    for step in (1, 2, 3):
        torch.save({"weight": torch.full((3,), float(step))}, checkpoints / f"step_{step}.pt")
    rank.close(steps=60)
    wait_until((out / "training_statistics.json").exists)
    wait_until(lambda: not list(shm_dir.glob("*.ring")))

    (average,) = load(out / "training_statistics.json")["averages"]
    assert "averaged_model.json" in average["error"]
    ((step, text),) = texts(out, "Checkpoints/Sources")
    assert step == 60
    assert text == average["error"]


def test_an_average_that_is_older_than_the_run_is_not_noted(
    shm_dir: Path, tmp_path: Path, daemon: DaemonProcess
) -> None:
    out, checkpoints = tmp_path / "run", tmp_path / "checkpoints"
    make_average(checkpoints)
    later = time.time() + 60
    hello = make_hello(out, checkpoints=(str(checkpoints),), started_at=later)
    rank = FakeRank(shm_dir, hello)
    rank.publish(1)
    rank.close(steps=1)

    daemon.start()
    wait_until(lambda: not list(shm_dir.glob("*.ring")))

    assert load(out / "training_statistics.json")["averages"] == []
