"""The final report: there when a run is over, once, whatever happens in between."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from daemon_process import DaemonProcess, wait_until
from fake_trainer import FakeRank, make_hello
from PIL import Image
from written import history, load, steps

from trackside.wire.records import LoggedScalar

pytestmark = pytest.mark.integration

TRAINER = Path(__file__).parents[2] / "support" / "fake_trainer.py"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def sampled(shm_dir: Path, out: Path, daemon: DaemonProcess) -> FakeRank:
    """A run that a daemon serves, with one sampled step on disk."""
    daemon.start()
    rank = FakeRank(shm_dir, make_hello(out))
    rank.publish(10)
    wait_until(lambda: steps(out) == [10])
    return rank


def is_empty(directory: Path) -> bool:
    return not list(directory.glob("*.ring"))


def cells(report: str, label: str) -> list[str]:
    row = next(row for row in report.splitlines() if row.startswith(f"| {label} |"))
    return [cell.strip() for cell in row.split("|")[2:-1]]


def test_run_that_ends_gets_its_report(shm_dir: Path, out: Path, daemon: DaemonProcess) -> None:
    daemon.start()
    rank = FakeRank(shm_dir, make_hello(out, config={"width": 64}))
    rank.publish(10, clip_rate=0.25)
    rank.publish(20, clip_rate=0.75, norm_before_clip=9.0)
    late = LoggedScalar(step=25, name="Eval/loss", value=0.75)
    rank.publish(30, loss=float("nan"), scalars=(late,))
    rank.close(steps=35)
    wait_until(lambda: is_empty(shm_dir))

    report = (out / "final_report.md").read_text()
    assert report.startswith("# Run fake-run\n")
    assert cells(report, "state") == ["finished: every rank that was seen closed its session"]
    assert cells(report, "optimizer steps seen") == ["35"]
    assert cells(report, "sampled steps") == ["3 written of 3; every 10 steps was asked for"]
    assert cells(report, "current") == ["NaN at step 30"]
    assert cells(report, "mean") == ["0.75 of 2 values"]  # (10 / 10 + 10 / 20) / 2
    assert cells(report, "eval_loss") == [
        "0.75 at step 25, min 0.75 at step 25, max 0.75 at step 25"
    ]
    assert cells(report, "largest of the sampled steps") == ["9 at step 20"]
    assert cells(report, "clip rate") == ["50.0 % on average over the samples, 50.0 % at the last"]
    assert cells(report, "gradient noise scale") == ["unknown"]
    assert cells(report, "0") == ["35", "3", "30", "0.5", "closed", "0", "0"]
    assert cells(report, "width") == ["64"]
    first, last = (history(out)[index]["attention"]["decoder"][0]["entropy"] for index in (0, -1))
    assert cells(report, "decoder layer 0 (self)")[1] == f"{first:.5g} to {last:.5g}"
    assert "![Loss, learning rate, gradient norm and loss histogram](final_report.png)" in report
    with Image.open(out / "final_report.png") as picture:
        assert picture.size == (1375, 902)
    assert load(out / "run.json")["reported_segments"] == ["a"]


def test_report_of_a_real_training_says_what_the_training_said(
    shm_dir: Path, out: Path, daemon: DaemonProcess
) -> None:
    daemon.start()
    done = subprocess.run(
        [
            sys.executable,
            TRAINER.with_name("real_trainer.py"),
            "24",
            "every=2",
            f"save_dir='{out}'",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    wait_until(lambda: is_empty(shm_dir))

    losses = [float.fromhex(line) for line in done.stdout.split()[:-1]]
    sampled = np.array(losses[1::2])  # of steps 2, 4 ... 24
    report = (out / "final_report.md").read_text()
    assert cells(report, "optimizer steps seen") == ["24"]
    assert cells(report, "last loss of the lowest rank") == [f"{losses[-1]:.5g}"]
    assert cells(report, "mean") == [f"{sampled.mean():.5g} of 12 values"]
    lowest = int(sampled.argmin())
    assert cells(report, "min") == [f"{sampled[lowest]:.5g} at step {2 * lowest + 2}"]
    norms = [line["norm_before_clip"] for line in history(out)]
    clipped = [line["clip_rate"] for line in history(out)]
    assert cells(report, "median norm of the sampled steps") == [f"{np.median(norms):.5g}"]
    assert cells(report, "clipped to") == ["1"]
    mean, last = f"{100 * np.mean(clipped):.1f}", f"{100 * clipped[-1]:.1f}"
    said = f"{mean} % on average over the samples, {last} % at the last"
    assert cells(report, "clip rate") == [said]
    assert len([row for row in report.splitlines() if row.startswith("| decoder layer")]) == 2


def test_run_whose_trainer_was_killed_gets_its_report(
    shm_dir: Path, out: Path, daemon: DaemonProcess
) -> None:
    daemon.start()
    trainer = subprocess.Popen(
        [sys.executable, TRAINER, shm_dir, out, "100000"], stdout=subprocess.DEVNULL
    )
    wait_until(lambda: len(steps(out)) > 2)
    trainer.kill()
    trainer.wait()
    wait_until(lambda: is_empty(shm_dir))

    report = (out / "final_report.md").read_text()
    assert cells(report, "state") == ["killed: not every rank that was seen closed its session"]
    assert cells(report, "optimizer steps seen") == ["unknown"]
    assert cells(report, "ended") == ["unknown, after unknown"]
    assert cells(report, "last loss of the lowest rank") == ["unknown"]
    last = history(out)[-1]
    assert cells(report, "last sampled loss") == [f"{last['loss']:.5g} at step {last['step']}"]


def test_daemon_that_is_killed_before_the_report_is_followed_by_one_that_writes_it(
    shm_dir: Path, out: Path, daemon: DaemonProcess, sampled: FakeRank
) -> None:
    # Whoever writes the picture waits here for a reader that never comes.
    os.mkfifo(out / "final_report.png.trackside-tmp")
    sampled.close(steps=10)
    wait_until(
        lambda: (out / "run.json").exists() and "finished_segments" in load(out / "run.json")
    )
    totals = (out / "training_statistics.json").read_bytes()
    daemon.kill()

    assert not (out / "final_report.md").exists()
    daemon.start()
    wait_until(lambda: is_empty(shm_dir))

    assert (out / "final_report.md").exists()
    assert (out / "final_report.png").read_bytes().startswith(b"\x89PNG")
    assert (out / "training_statistics.json").read_bytes() == totals
    assert steps(out) == [10]
    assert not list(out.glob("*.trackside-tmp"))


def test_report_that_is_written_is_not_written_again(
    shm_dir: Path, out: Path, sampled: FakeRank
) -> None:
    sampled.close(steps=10)
    wait_until(lambda: is_empty(shm_dir))
    (out / "final_report.md").write_text("mine now")
    again = FakeRank(shm_dir, make_hello(out))  # the same segment, as if its end had not been seen
    again.close(steps=10)
    wait_until(lambda: is_empty(shm_dir))

    assert (out / "final_report.md").read_text() == "mine now"


def test_report_that_cannot_be_written_costs_itself_only(
    shm_dir: Path, out: Path, daemon: DaemonProcess, sampled: FakeRank
) -> None:
    (out / "final_report.md" / "full").mkdir(parents=True)  # no file can take its place
    sampled.close(steps=10)
    wait_until(lambda: is_empty(shm_dir))

    assert "the final report of" in daemon.output
    assert "cannot write" in daemon.output
    assert load(out / "run.json")["state"] == "finished"
    assert daemon.stop() == 0


def test_run_without_a_sampled_step_gets_a_report_without_curves(
    shm_dir: Path, out: Path, daemon: DaemonProcess
) -> None:
    daemon.start()
    FakeRank(shm_dir, make_hello(out)).close(steps=7)
    wait_until(lambda: is_empty(shm_dir))

    report = (out / "final_report.md").read_text()
    assert cells(report, "optimizer steps seen") == ["7"]
    assert cells(report, "loss") == ["unknown"]
    assert cells(report, "gradient norm") == ["unknown"]
    assert "No attention was captured." in report
    assert "final_report.png" not in report
    assert not (out / "final_report.png").exists()


def test_signal_to_stop_is_not_held_up_by_the_report(
    shm_dir: Path, out: Path, daemon: DaemonProcess, sampled: FakeRank
) -> None:
    os.mkfifo(out / "final_report.png.trackside-tmp")
    sampled.close(steps=10)
    wait_until(lambda: "finished_segments" in load(out / "run.json"))

    daemon.signal(signal.SIGTERM)

    assert daemon.wait() == 0
    assert not is_empty(shm_dir)  # left to the next daemon
    daemon.start()
    wait_until(lambda: is_empty(shm_dir))
    assert (out / "final_report.md").exists()
