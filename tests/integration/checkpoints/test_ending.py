"""Signals end `trackside average` and leave nothing half made."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from averaging_service import averaged, save
from daemon_process import wait_until
from debris import debris

pytestmark = pytest.mark.integration

AVERAGE = (sys.executable, "-m", "tracksided", "average")
SIZE = 20_000_000  # large enough that it is seen while it writes
SOURCES = ["step_1.pt", "step_2.pt", "step_3.pt"]
MAX_TRIES = 20


def stopped_while_it_writes(directory: Path, *before: str) -> "subprocess.Popen[str]":
    """Start an averaging and stop it halfway; one that was done before is started again.

    It takes less time than this test may have to wait for a processor.
    """
    save(directory, 1, 2, 3, size=SIZE)
    for _ in range(MAX_TRIES):
        process = start(*before, *AVERAGE, str(directory))
        wait_until(lambda started=process: bool(debris(directory)) or started.poll() is not None)
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        if debris(directory):
            return process
        process.send_signal(signal.SIGCONT)
        said, _ = process.communicate()
        assert process.returncode == 0, said
        for path in directory.iterdir():
            if path.name not in SOURCES:
                path.unlink()
    pytest.fail("it was never seen while it wrote")


def start(*command: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.mark.parametrize(
    ("number", "exit_code"),
    [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 1)],
)
def test_a_signal_ends_it_and_leaves_no_temporary_file(
    tmp_path: Path, number: signal.Signals, exit_code: int
) -> None:
    process = stopped_while_it_writes(tmp_path)

    process.send_signal(number)
    process.send_signal(signal.SIGCONT)
    said, _ = process.communicate()

    assert process.returncode == exit_code
    assert "Traceback" not in said
    assert sorted(path.name for path in tmp_path.iterdir()) == SOURCES


def test_a_hangup_that_is_ignored_does_not_end_it(tmp_path: Path) -> None:
    process = stopped_while_it_writes(tmp_path, "nohup")

    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGCONT)
    process.communicate()

    assert process.returncode == 0
    assert averaged(tmp_path)[0].item() == 2.0
