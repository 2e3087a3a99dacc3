"""Many runs that ended while no daemon served them, such as those of a search over settings."""

from pathlib import Path

import pytest
from daemon_process import DaemonProcess, wait_until
from fake_trainer import FakeRank, make_hello

from tracksided.intake import MAX_ENDED

pytestmark = pytest.mark.integration

NUM_RUNS = MAX_ENDED + 40  # more than the other threads of a daemon


def num_threads(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/task").iterdir()))


def test_runs_that_wait_take_no_thread_and_follow_when_others_are_over(
    shm_dir: Path, tmp_path: Path, daemon: DaemonProcess
) -> None:
    for number in range(NUM_RUNS):
        hello = make_hello(tmp_path / f"{number}", run=f"run-{number}", visualize=("statistics",))
        rank = FakeRank(shm_dir, hello)
        rank.publish(1)
        rank.close(steps=1)
    daemon.start()
    most = 0

    def num_written() -> int:
        nonlocal most
        most = max(most, num_threads(daemon.pid))
        return sum((tmp_path / f"{k}" / "history.jsonl").exists() for k in range(NUM_RUNS))

    wait_until(lambda: num_written() > MAX_ENDED)

    assert MAX_ENDED <= most < NUM_RUNS
    assert len(list(shm_dir.glob("*.ring"))) < NUM_RUNS
    daemon.kill()
    for path in shm_dir.iterdir():  # what is left would be written by the next daemon
        path.unlink()
