"""Signals end `trackside average` and leave nothing half made."""

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
# What starts in the background of a script has signals ignored, and hands that on.
ATTENTIVE = ("env", "--default-signal=TERM,HUP,INT")
SIZE = 20_000_000  # large enough that it is seen while it writes


@pytest.mark.parametrize(
    ("number", "exit_code"),
    [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 1)],
)
def test_a_signal_ends_it_and_leaves_no_temporary_file(
    tmp_path: Path, number: signal.Signals, exit_code: int
) -> None:
    save(tmp_path, 1, 2, 3, size=SIZE)
    command = [*ATTENTIVE, *AVERAGE, str(tmp_path)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    wait_until(lambda: bool(debris(tmp_path)))

    process.send_signal(number)
    _, said = process.communicate()

    assert process.returncode == exit_code
    assert "Traceback" not in said
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "step_1.pt",
        "step_2.pt",
        "step_3.pt",
    ]


def test_a_hangup_that_is_ignored_does_not_end_it(tmp_path: Path) -> None:
    save(tmp_path, 1, 2, 3, size=SIZE)
    command = ["nohup", *AVERAGE, str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    wait_until(lambda: bool(debris(tmp_path)))

    process.send_signal(signal.SIGHUP)
    process.communicate()

    assert process.returncode == 0
    assert averaged(tmp_path)[0].item() == 2.0
