"""Whatever becomes of the daemon, training is the same to the last bit."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from daemon_process import DaemonProcess, wait_until
from written import history, load, scalars, steps

from trackside.wire.segment import remove

pytestmark = pytest.mark.e2e

TRAINER = Path(__file__).parents[1] / "support" / "real_trainer.py"
STEPS = 120


def train(*keywords: str, steps: int = STEPS) -> list[str]:
    """Run the trainer; return its losses and, last, the digest of all state."""
    done = subprocess.run(
        [sys.executable, TRAINER, str(steps), *keywords],
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout.split()


@pytest.fixture(scope="module")
def bare() -> list[str]:
    return train()


def keywords(out: Path, **more: object) -> list[str]:
    values = {"save_dir": str(out), "autostart": False, "every": 2, "layers": None, **more}
    return [f"{name}={value!r}" for name, value in values.items()]


def losses_of(run: list[str]) -> list[float]:
    return [float.fromhex(value) for value in run[:-1]]


def test_without_a_daemon(bare: list[str], shm_dir: Path, tmp_path: Path) -> None:
    # A ring for a few records only: it is full soon, and stays so.
    tapped = train(*keywords(tmp_path / "out", ring_bytes=1 << 18))

    assert tapped == bare
    for path in shm_dir.glob("*.ring"):
        remove(path)


def test_with_a_full_shared_memory(bare: list[str], shm_dir: Path, tmp_path: Path) -> None:
    assert train(*keywords(tmp_path / "out", ring_bytes=1 << 40)) == bare
    assert not list(shm_dir.glob("*.ring"))


def test_with_a_daemon_that_serves(
    bare: list[str], shm_dir: Path, tmp_path: Path, daemon: DaemonProcess
) -> None:
    out = tmp_path / "out"
    daemon.start()

    tapped = train(*keywords(out, visualize=("statistics",)))
    wait_until(lambda: not list(shm_dir.glob("*.ring")))

    assert tapped == bare
    due = list(range(2, STEPS + 1, 2))
    assert steps(out) == due
    expected = losses_of(bare)
    assert [line["loss"] for line in history(out)] == [expected[step - 1] for step in due]
    logged = scalars(out, "Training/Loss")
    np.testing.assert_allclose([value for _, value in logged], [expected[s - 1] for s in due])


def test_with_a_daemon_that_is_stopped(
    bare: list[str], shm_dir: Path, tmp_path: Path, daemon: DaemonProcess
) -> None:
    out = tmp_path / "out"
    daemon.start()
    daemon.signal(signal.SIGSTOP)

    tapped = train(*keywords(out, ring_bytes=1 << 18))

    assert tapped == bare
    daemon.signal(signal.SIGCONT)
    wait_until(lambda: not list(shm_dir.glob("*.ring")))
    totals = load(out / "training_statistics.json")
    assert totals["processed"] < totals["sampled"] == STEPS // 2
    assert totals["dropped"]["ring_full"] > 0


def test_with_a_daemon_that_is_killed_again_and_again(
    bare: list[str], shm_dir: Path, tmp_path: Path, daemon: DaemonProcess
) -> None:
    out = tmp_path / "out"
    moments = random.Random(7)
    command = [sys.executable, str(TRAINER), str(STEPS), "pause_s=0.03"]
    command += keywords(out, visualize=("heatmap", "statistics"))
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as trainer:
        while trainer.poll() is None:
            daemon.start(wait=False)
            time.sleep(moments.uniform(0.5, 2.0))
            daemon.kill()
        assert trainer.stdout is not None
        assert trainer.stderr is not None
        tapped, errors = trainer.stdout.read().split(), trainer.stderr.read()
    daemon.start()
    wait_until(lambda: not list(shm_dir.glob("*.ring")))

    assert tapped == bare
    assert "Traceback" not in errors
    due = list(range(2, STEPS + 1, 2))
    assert steps(out) == due
    assert [step for step, _ in scalars(out, "Training/Loss")] == due
    assert sorted(int(path.name[5:]) for path in out.glob("step_*")) == due
    totals = load(out / "training_statistics.json")
    assert (totals["processed"], totals["dropped"]) == (len(due), {})
