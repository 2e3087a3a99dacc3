"""Trainer and daemon in different PID namespaces that share the node-local directory."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from apart import why_not, with_own_pids
from daemon_process import DaemonProcess, wait_until
from fake_trainer import FakeRank, make_hello
from typed import trackside
from written import load, steps

from trackside.wire.locks import daemon_pid
from trackside.wire.segment import SegmentName, is_writer_alive

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(why_not() is not None, reason=str(why_not())),
]

TRAINER = Path(__file__).parents[1] / "support" / "fake_trainer.py"
ENDLESS = "1000000"
DAEMON = (sys.executable, "-P", "-m", "tracksided", "daemon")


def segments(shm_dir: Path) -> list[Path]:
    return sorted(shm_dir.glob("*.ring"))


def contained_trainer(shm_dir: Path, out: Path, num_steps: str) -> "subprocess.Popen[bytes]":
    command = with_own_pids(sys.executable, TRAINER, shm_dir, out, num_steps)
    return subprocess.Popen(command, stdout=subprocess.DEVNULL)


def test_trainer_in_a_container_is_served_by_the_daemon_outside(
    shm_dir: Path, tmp_path: Path, daemon: DaemonProcess
) -> None:
    daemon.start()

    with contained_trainer(shm_dir, tmp_path / "out", "5") as trainer:
        assert trainer.wait(90) == 0
    wait_until(lambda: not segments(shm_dir))

    assert steps(tmp_path / "out") == [1, 2, 3, 4, 5]
    assert load(tmp_path / "out" / "training_statistics.json")["state"] == "finished"


def test_killed_trainer_in_a_container_is_not_taken_for_the_process_that_has_its_pid_outside(
    shm_dir: Path, tmp_path: Path, daemon: DaemonProcess
) -> None:
    out = tmp_path / "out"
    daemon.start()
    with contained_trainer(shm_dir, out, ENDLESS) as trainer:
        wait_until(lambda: bool(segments(shm_dir)))
        (path,) = segments(shm_dir)
        name = SegmentName.parse(path.name)
        assert name is not None
        assert name.pid == 1  # out here that is init, which lives on
        wait_until(lambda: bool(steps(out)))
        wait_until(lambda: bool(daemon.status["runs"]))
        (rank,) = daemon.status["runs"][0]["ranks"]
        assert (rank["pid"], rank["alive"]) == (1, True)

        trainer.kill()  # --kill-child: SIGKILL for the trainer, too
    wait_until(lambda: not segments(shm_dir))

    assert steps(out) == list(range(1, len(steps(out)) + 1))
    assert load(out / "training_statistics.json")["state"] == "killed"
    assert not list(shm_dir.glob("*.alive"))


def test_trainers_of_two_containers_with_one_pid_are_two_ranks(
    shm_dir: Path, tmp_path: Path, daemon: DaemonProcess
) -> None:
    daemon.start()
    trainers = [contained_trainer(shm_dir, tmp_path / name, ENDLESS) for name in ("a", "b")]
    try:
        wait_until(lambda: all(steps(tmp_path / name) for name in ("a", "b")))
        assert {SegmentName.parse(path.name).pid for path in segments(shm_dir)} == {1}
        trainers[0].kill()
        wait_until(lambda: len(segments(shm_dir)) == 1)
        before = len(steps(tmp_path / "b"))
        wait_until(lambda: len(steps(tmp_path / "b")) > before)
    finally:
        for trainer in trainers:
            trainer.kill()
            trainer.wait()
    wait_until(lambda: not segments(shm_dir))


def test_daemon_in_a_container_serves_a_trainer_outside(shm_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    log = tmp_path / "daemon.log"
    with log.open("wb") as stream:
        daemon = subprocess.Popen(with_own_pids(*DAEMON), stderr=stream)
    try:
        wait_until(lambda: daemon_pid(shm_dir) is not None)
        rank = FakeRank(shm_dir, make_hello(out))
        rank.publish(1)
        wait_until(lambda: steps(out) == [1])
        # The daemon must see over there that this process lives, by other means than its pid.
        status = json.loads(trackside("status", "--json").stdout)
        assert status["daemon"]["state"] == "serving"
        assert status["runs"][0]["ranks"][0]["alive"] is True
        rank.publish(2)
        rank.abandon()
        wait_until(lambda: not segments(shm_dir))
    finally:
        daemon.kill()
        daemon.wait()

    assert steps(out) == [1, 2]
    assert "Traceback" not in log.read_text()


def test_a_daemon_and_a_doctor_in_a_container_see_the_daemon_outside(
    shm_dir: Path, tmp_path: Path, daemon: DaemonProcess
) -> None:
    del tmp_path
    daemon.start()
    wait_until((shm_dir / "status.json").exists)

    second = subprocess.run(with_own_pids(*DAEMON), capture_output=True, text=True, check=False)
    seen = subprocess.run(
        with_own_pids(sys.executable, "-m", "tracksided", "doctor", "--json"),
        capture_output=True,
        text=True,
        check=False,
    )

    assert second.returncode == 75
    assert "in another container" in second.stderr
    findings = {entry["check"]: entry for entry in json.loads(seen.stdout)["findings"]}
    assert "in another container" in findings["daemon"]["found"]


def test_segment_whose_pid_belongs_to_another_process_now_is_drained_and_removed(
    shm_dir: Path, tmp_path: Path, daemon: DaemonProcess
) -> None:
    with subprocess.Popen(["sleep", "1000"]) as stranger:
        rank = FakeRank(shm_dir, make_hello(tmp_path / "out", pid=stranger.pid))
        rank.publish(1)
        rank.abandon()  # as after a kill -9, and then the pid came again
        assert not is_writer_alive(rank.writer.path)
        daemon.start()
        wait_until(lambda: not segments(shm_dir))
        os.kill(stranger.pid, signal.SIGKILL)

    assert steps(tmp_path / "out") == [1]
