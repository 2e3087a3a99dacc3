"""Workers that stand still, die, or are asked for too much: only their step's pictures go."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest
from daemon_process import DaemonProcess, wait_until
from fake_trainer import FakeRank, make_attention, make_hello
from written import history, scalars, steps

pytestmark = pytest.mark.integration

SIDE, HEADS, HEAD_DIM = 3072, 16, 2


def settings(tmp_path: Path, text: str) -> tuple[str, str]:
    path = tmp_path / "daemon.toml"
    path.write_text(f"[workers]\n{text}\n")
    return "--config", str(path)


def worker_pid(daemon: DaemonProcess) -> int:
    wait_until(lambda: bool(daemon.status["workers"]["pids"]))
    return int(daemon.status["workers"]["pids"][0])


def test_maps_beyond_the_memory_of_a_worker_cost_their_pictures_only(
    shm_dir: Path, tmp_path: Path, daemon: DaemonProcess
) -> None:
    out = tmp_path / "out"
    daemon.start(*settings(tmp_path, "memory_bytes = 400000000"))
    rank = FakeRank(shm_dir, make_hello(out), ring_bytes=4 << 20)
    rank.publish(1)
    shape = (HEADS, SIDE, HEAD_DIM)
    enormous = make_attention(HEADS, SIDE, SIDE)  # 604 MB of weights
    arrays = {f"attention/0/{name}": np.ones(shape, dtype=np.float32) for name in ("query", "key")}
    rank.publish(2, attention=(enormous,), arrays=arrays)
    rank.publish(3)
    rank.close()
    wait_until(lambda: not list(shm_dir.glob("*.ring")))

    assert steps(out) == [1, 2, 3]
    assert [bool(line["failures"]) for line in history(out)] == [False, True, False]
    assert [step for step, _ in scalars(out, "Training/Loss")] == [1, 2, 3]
    assert not list((out / "step_2").glob("*.png"))
    assert (out / "step_2" / "statistics.json").exists()
    assert (out / "step_3" / "decoder_layer0_self_attn.png").exists()


def test_stopped_worker_is_replaced_when_its_time_is_up(
    shm_dir: Path, tmp_path: Path, daemon: DaemonProcess
) -> None:
    out = tmp_path / "out"
    daemon.start(*settings(tmp_path, "job_seconds = 5.0"))
    rank = FakeRank(shm_dir, make_hello(out, visualize=("statistics",)))
    rank.publish(1)
    wait_until(lambda: steps(out) == [1])
    stopped = worker_pid(daemon)
    os.kill(stopped, signal.SIGSTOP)
    rank.publish(2)
    rank.publish(3)
    rank.close()
    wait_until(lambda: not list(shm_dir.glob("*.ring")))

    assert steps(out) == [1, 2, 3]
    assert "took longer than 5 s" in history(out)[1]["failures"]["worker"]
    assert history(out)[2]["failures"] == {}
    with pytest.raises(ProcessLookupError):
        os.kill(stopped, 0)


def test_worker_killed_between_two_steps_costs_nothing(
    shm_dir: Path, tmp_path: Path, daemon: DaemonProcess
) -> None:
    out = tmp_path / "out"
    daemon.start()
    rank = FakeRank(shm_dir, make_hello(out, visualize=("statistics",)))
    rank.publish(1)
    wait_until(lambda: steps(out) == [1])
    os.kill(worker_pid(daemon), signal.SIGKILL)
    rank.publish(2)
    rank.close()
    wait_until(lambda: not list(shm_dir.glob("*.ring")))

    assert [line["failures"] for line in history(out)] == [{}, {}]
