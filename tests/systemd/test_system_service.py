"""`trackside service install --system` on a machine with a real systemd."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from booted_machine import REPOSITORY, Machine, wait_for

pytestmark = pytest.mark.integration

UNIT = "trackside@ada.service"
TRAINER = REPOSITORY / "tests/support/fake_trainer.py"
# A restart waits 2 s and starts Python; the watchdog of these tests waits 4 s.
RESTART_DEADLINE_S = 60
WATCHDOG_OF_TESTS = "[Service]\nWatchdogSec=4s\nTimeoutAbortSec=2s\n"


@pytest.fixture
def service(machine: Machine) -> Iterator[Machine]:
    machine.trackside("service", "install", "--system", "--for", "ada")
    yield machine
    machine.trackside("service", "uninstall", "--system", "--for", "ada")


def main_pid(machine: Machine) -> str:
    return machine.property(UNIT, "MainPID")


def wait_until_it_runs_again(machine: Machine, old_pid: str) -> None:
    wait_for(
        lambda: (
            main_pid(machine) not in {"0", old_pid}
            and machine.property(UNIT, "ActiveState") == "active"
        ),
        RESTART_DEADLINE_S,
        lambda: machine.journal(UNIT),
    )


def train(machine: Machine, run_directory: str, steps: int) -> None:
    uid = machine.run("id", "-u", "ada").stdout.strip()
    segments = f"/dev/shm/trackside-{uid}"  # noqa: S108 - where the daemon looks
    machine.run(
        *(sys.executable, str(TRAINER), segments, run_directory, str(steps)),
        user="ada",
    )


def history(machine: Machine, run_directory: str) -> list[int]:
    done = machine.run("cat", f"{run_directory}/history.jsonl", check=False)
    return [json.loads(line)["step"] for line in done.stdout.splitlines()]


def test_install_runs_a_daemon_as_the_user(service: Machine):
    pid = main_pid(service)

    assert service.property(UNIT, "ActiveState") == "active"
    assert service.property(UNIT, "UnitFileState") == "enabled"
    assert service.run("stat", "-c", "%U", f"/proc/{pid}").stdout.strip() == "ada"


def test_the_installed_units_verify_without_a_word(service: Machine):
    done = service.run("systemd-analyze", "verify", UNIT)

    assert done.stderr == ""


def test_the_running_service_is_hardly_exposed(service: Machine):
    service.run("systemd-analyze", "security", "--threshold=12", UNIT)


def test_the_daemon_takes_only_idle_time(service: Machine):
    status = service.run("chrt", "--pid", main_pid(service)).stdout

    assert "SCHED_IDLE" in status
    assert service.property("trackside.slice", "CPUWeight") == "1"


def test_a_killed_daemon_comes_back(service: Machine):
    pid = main_pid(service)

    service.run("systemctl", "kill", "--signal=SIGKILL", "--kill-who=main", UNIT)

    wait_until_it_runs_again(service, pid)


def test_a_stopped_daemon_is_ended_by_the_watchdog(service: Machine):
    drop_in = f"/run/systemd/system/{UNIT}.d/watchdog.conf"
    service.run("install", "-D", "/dev/null", drop_in)
    service.run("sh", "-c", f"printf '{WATCHDOG_OF_TESTS}' > {drop_in}".replace("\n", "\\n"))
    service.run("systemctl", "daemon-reload")
    service.run("systemctl", "restart", UNIT)
    pid = main_pid(service)

    service.run("kill", "-STOP", pid)

    wait_until_it_runs_again(service, pid)
    assert "Watchdog timeout" in service.journal(UNIT)
    service.run("rm", "-r", str(Path(drop_in).parent))


def test_stop_ends_the_daemon_in_order(service: Machine):
    service.run("systemctl", "stop", UNIT)

    assert service.property(UNIT, "Result") == "success"
    assert service.property(UNIT, "ExecMainStatus") == "0"
    assert service.property(UNIT, "ExecMainCode") == "1"  # CLD_EXITED, not killed


def test_the_daemon_of_the_service_writes_the_outputs_of_a_run(service: Machine):
    directory = "/home/ada/runs/one"

    train(service, directory, 3)

    wait_for(
        lambda: len(history(service, directory)) == 3,
        RESTART_DEADLINE_S,
        lambda: service.journal(UNIT),
    )


def test_what_was_published_without_a_daemon_is_written_after_the_start(service: Machine):
    directory = "/home/ada/runs/two"
    service.run("systemctl", "stop", UNIT)
    train(service, directory, 3)

    service.run("systemctl", "start", UNIT)

    wait_for(
        lambda: len(history(service, directory)) == 3,
        RESTART_DEADLINE_S,
        lambda: service.journal(UNIT),
    )
