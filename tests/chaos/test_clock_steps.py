"""The wall clock is set while trainers and daemon run; the monotonic one differs in a container."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from apart import why_not
from chaos_check import loss_events
from daemon_process import DaemonProcess, wait_until
from fake_trainer import FakeRank, make_hello
from set_clock import WHY_NOT, SetClock
from typed import trackside
from written import history, steps

pytestmark = pytest.mark.integration

needs_clock = pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))

TRAINER = Path(__file__).parents[1] / "support" / "fake_trainer.py"
HOUR, DAY = 3600, 86400
IN_ANOTHER_TIME = ("unshare", "--time", "--monotonic", "864000", "--boottime", "864000", "--fork")


def has_time_namespaces() -> bool:
    if why_not() is not None:
        return False
    return (
        subprocess.run([*IN_ANOTHER_TIME, "true"], check=False, capture_output=True).returncode == 0
    )


@pytest.fixture
def clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SetClock:
    """The clock of every process that the test starts; its own stays as it is."""
    clock = SetClock(tmp_path)
    for name, value in clock.environ.items():
        monkeypatch.setenv(name, value)
    return clock


def train(shm_dir: Path, out: Path, num_steps: int, *words: str) -> None:
    subprocess.run(
        [sys.executable, TRAINER, shm_dir, out, str(num_steps), *words],
        check=True,
        capture_output=True,
    )


def are_drained(shm_dir: Path) -> bool:
    return not list(shm_dir.glob("*.ring"))


def nonces(shm_dir: Path) -> set[str]:
    return {path.name.split(".")[-2] for path in shm_dir.glob("*.ring")}


def says(out: Path) -> Sequence[tuple[int, float]]:
    return [(line["step"], line["loss"]) for line in history(out)]


@needs_clock
def test_every_step_is_written_once_wherever_the_clock_is_set(
    shm_dir: Path, tmp_path: Path, daemon: DaemonProcess, clock: SetClock
) -> None:
    out = tmp_path / "out"
    offsets = (0, 2 * DAY, -30 * DAY, HOUR)
    for offset_s in offsets:
        daemon.start()
        train(shm_dir, out, 2)
        clock.set(offset_s)
        train(shm_dir, out, 3)
        wait_until(lambda: are_drained(shm_dir))
        train(shm_dir, out, 3)
        daemon.kill()  # whatever of the last three is written: in an event file named by its time
    daemon.start()
    wait_until(lambda: are_drained(shm_dir))
    assert daemon.stop() == 0

    assert steps(out) == [1, 2, 1, 2, 3, 1, 2, 3] * len(offsets)
    events = list(loss_events(out / "tensorboard"))
    assert events == [(step, pytest.approx(loss, rel=1e-6)) for step, loss in says(out)]
    timestamps = {int(line["host"]["timestamp"]) // DAY for line in history(out) if line["host"]}
    assert len(timestamps) > 1, "the daemon's clock was not set at all"
    assert "Traceback" not in daemon.output


@needs_clock
def test_tries_are_written_in_their_order_where_the_clock_went_back_between_them(
    shm_dir: Path, tmp_path: Path, daemon: DaemonProcess, clock: SetClock
) -> None:
    out = tmp_path / "out"
    order = []
    for offset_s in (0, -DAY, -2 * DAY):
        clock.set(offset_s)
        before = nonces(shm_dir)
        train(shm_dir, out, 2)
        order += nonces(shm_dir) - before

    daemon.start()
    wait_until(lambda: are_drained(shm_dir))

    found = [line["records"]["0"][0] for line in history(out)]
    assert found == [nonce for nonce in order for _ in range(2)]


@needs_clock
@pytest.mark.parametrize("offset_s", [HOUR, -HOUR])
def test_ranks_between_whose_starts_the_clock_is_set_are_one_job(
    shm_dir: Path, tmp_path: Path, daemon: DaemonProcess, clock: SetClock, offset_s: int
) -> None:
    out = tmp_path / "out"
    train(shm_dir, out, 2, "0", "2")
    clock.set(offset_s)
    train(shm_dir, out, 2, "1", "2")

    daemon.start()
    wait_until(lambda: are_drained(shm_dir))

    assert steps(out) == [1, 2]
    assert all([entry["rank"] for entry in line["ranks"]] == [0, 1] for line in history(out))


@needs_clock
@pytest.mark.parametrize("offset_s", [HOUR, -HOUR])
def test_status_does_not_take_a_daemon_for_silent_whose_clock_is_another(
    shm_dir: Path, daemon: DaemonProcess, clock: SetClock, offset_s: int
) -> None:
    clock.set(offset_s)
    daemon.start()
    wait_until((shm_dir / "status.json").exists)

    clock.set(0)
    answer = json.loads(trackside("status", "--json").stdout)

    assert answer["daemon"]["state"] == "serving"


@pytest.mark.skipif(not has_time_namespaces(), reason="no time namespaces here, or not root")
def test_trainer_and_daemon_may_count_their_monotonic_seconds_from_different_moments(
    shm_dir: Path, tmp_path: Path, daemon: DaemonProcess
) -> None:
    daemon.start()
    inside, outside = tmp_path / "inside", tmp_path / "outside"

    command = [*IN_ANOTHER_TIME, sys.executable, TRAINER, shm_dir, inside, "3"]
    subprocess.run(command, check=True, capture_output=True)
    rank = FakeRank(shm_dir, make_hello(outside, run="outside"))
    rank.publish(1)
    rank.close()
    wait_until(lambda: are_drained(shm_dir))

    assert (steps(inside), steps(outside)) == ([1, 2, 3], [1])
