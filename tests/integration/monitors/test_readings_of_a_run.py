"""What the daemon writes of the machine with each step of a run."""

import functools
import itertools
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from daemon_process import DaemonProcess, wait_until
from fake_trainer import FakeRank, make_hello
from written import history, scalars

pytestmark = pytest.mark.integration

SetGpus = Callable[[str], None]


@pytest.fixture
def daemon(daemon: DaemonProcess, set_gpus: SetGpus) -> DaemonProcess:
    """See a GPU that this process uses."""
    set_gpus(
        "count 1\n0.utilization 37\n0.memory_total 1000\n0.memory_used 250\n0.temperature 71\n"
        f"0.milliwatts 99000\n0.process.{os.getpid()} {5 << 20}\n"
    )
    return daemon


def publish_until(
    rank: FakeRank, out: Path, first: int, condition: Callable[[dict[str, Any]], bool]
) -> int:
    """Publish steps, each after the one before was written, until a line is as wanted."""
    for step in itertools.count(first, 10):
        rank.publish(step)
        wait_until(functools.partial(is_written, out, step))
        if condition(history(out)[-1]):
            return step
    raise AssertionError


def is_written(out: Path, step: int) -> bool:
    return [line["step"] for line in history(out)][-1:] == [step]


def test_a_step_carries_the_machine_once(
    shm_dir: Path, tmp_path: Path, daemon: DaemonProcess
) -> None:
    out = tmp_path / "out"
    start = time.time()
    daemon.start()
    rank = FakeRank(shm_dir, make_hello(out, pid=1))  # as in a PID namespace of its own
    step = publish_until(rank, out, 10, lambda line: line["host"] is not None)
    step = publish_until(rank, out, step + 10, lambda line: line["host"]["cpu_percent"] is not None)
    rank.close(steps=step)
    wait_until(lambda: not list(shm_dir.glob("*.ring")))

    lines = history(out)
    (process,) = lines[-1]["host"]["processes"]
    assert (process["pid"], process["rank"]) == (os.getpid(), 0)
    assert process["gpu_memory_bytes"] == 5 << 20
    assert start < lines[-1]["host"]["timestamp"] < time.time()
    assert {disk["path"] for disk in lines[-1]["host"]["disks"]} == {str(out), str(shm_dir)}
    seen = [line for line in lines if line["host"] is not None]
    expected = {
        "Memory/Process_RSS_MB": lambda h: h["processes"][0]["rss_bytes"] / 2**20,
        "Memory/GPU_Allocated_MB": lambda _: 5.0,
        "Memory/GPU_Utilization_Percent": lambda _: 25.0,
        "Memory/Host_Percent": lambda h: h["memory_percent"],
        "Memory/Pressure_Level": lambda h: h["memory_pressure_level"],
        "GPU_0/Utilization_Percent": lambda _: 37.0,
        "GPU_0/Memory_Usage_Percent": lambda _: 25.0,
        "GPU_0/Temperature_C": lambda _: 71.0,
        "GPU_0/Power_W": lambda _: 99.0,
    }
    for tag, value in expected.items():
        points = [(line["step"], pytest.approx(value(line["host"]), rel=1e-6)) for line in seen]
        assert scalars(out, tag) == points, tag


def test_a_machine_that_is_not_watched_is_unknown(
    shm_dir: Path, tmp_path: Path, daemon: DaemonProcess
) -> None:
    out = tmp_path / "out"
    config = tmp_path / "daemon.toml"
    config.write_text("[monitors]\nenabled = false\n")
    daemon.start("--config", str(config))
    rank = FakeRank(shm_dir, make_hello(out))
    rank.publish(10)
    rank.close(steps=10)
    wait_until(lambda: not list(shm_dir.glob("*.ring")))

    assert [line["host"] for line in history(out)] == [None]
    assert daemon.status["monitors"] == {"pid": None, "problem": None}
    with pytest.raises(KeyError, match="Memory/Host_Percent"):
        scalars(out, "Memory/Host_Percent")


def test_a_driver_that_crashes_is_named_and_costs_the_gpus_only(
    shm_dir: Path, tmp_path: Path, daemon: DaemonProcess, set_gpus: SetGpus
) -> None:
    out = tmp_path / "out"
    set_gpus("count 1\ncrash 1\n")
    daemon.start()
    rank = FakeRank(shm_dir, make_hello(out))
    step = publish_until(rank, out, 10, lambda line: line["host"] is not None)
    wait_until(lambda: daemon.status["monitors"]["problem"] is not None)

    shown = subprocess.run(
        [sys.executable, "-P", "-m", "tracksided", "status"], capture_output=True, check=False
    ).stdout.decode()
    rank.close(steps=step)
    wait_until(lambda: not list(shm_dir.glob("*.ring")))

    assert "while it looked at gpus" in shown
    host = history(out)[-1]["host"]
    assert host["gpus"] == []
    assert host["memory_percent"] > 0
    assert host["processes"][0]["rss_bytes"] > 0
