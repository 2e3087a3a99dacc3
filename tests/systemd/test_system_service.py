"""`trackside service install --system` on a machine with a real systemd."""

import json
import struct
import sys
from collections.abc import Iterator

import pytest
from booted_machine import REPOSITORY, Machine, wait_for

pytestmark = pytest.mark.integration

UNIT = "trackside@ada.service"
# Outside the home, and below the directory that the unit has a private one of.
OPENED = "/tmp/opened"  # noqa: S108 - in the machine's own /tmp
TRAINER = REPOSITORY / "tests/support/fake_trainer.py"
SOURCES = {str(REPOSITORY / "emitter"), str(REPOSITORY / "daemon")}
RESTART_DEADLINE_S = 60
# The periods of the unit are made for busy machines; a test need not wait for them.
IMPATIENT = r"[Service]\nRestartSec=100ms\nWatchdogSec=%s\nTimeoutAbortSec=500ms\n"
# One float32 tensor: length of the header, header, four bytes.
WRITE_CHECKPOINT = """
import json, struct, sys
header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
with open(sys.argv[1], "wb") as stream:
    stream.write(struct.pack("<Q", len(header)) + header + struct.pack("<f", float(sys.argv[2])))
"""
ASK_HEALTH = """
import urllib.request
print(urllib.request.urlopen("http://127.0.0.1:9470/health").read().decode())
"""
TO_HEX = (sys.executable, "-c", "import sys; print(open(sys.argv[1], 'rb').read().hex())")


@pytest.fixture(scope="module")
def installed(machine: Machine) -> Iterator[Machine]:
    machine.run("install", "-d", "-o", "ada", OPENED)
    machine.trackside("service", "install", "--system", "--for", "ada", "--read-write", OPENED)
    be_impatient(machine, watchdog="60s")
    yield machine
    machine.trackside("service", "uninstall", "--system", "--for", "ada")
    left = machine.run("find", "/etc/systemd/system", "-name", "*trackside*").stdout
    assert left == ""


@pytest.fixture
def service(installed: Machine) -> Machine:
    installed.run("systemctl", "start", UNIT)
    return installed


def be_impatient(machine: Machine, watchdog: str) -> None:
    drop_in = f"/run/systemd/system/{UNIT}.d/impatient.conf"
    machine.run("install", "-D", "-m", "644", "/dev/null", drop_in)
    machine.run("sh", "-c", f"printf '{IMPATIENT % watchdog}' > {drop_in}")
    machine.run("systemctl", "daemon-reload")


def install_beside(machine: Machine, directory: str, user: str) -> str:
    """Make a virtual environment that has what this one has; return its interpreter."""
    python = f"{directory}/bin/python"
    machine.run(sys.executable, "-m", "venv", "--without-pip", directory, user=user)
    places = machine.run(python, "-c", "import site; print(*site.getsitepackages())", user=user)
    # A .pth file is not read in the directories that another one names: all of them stand here.
    lines = "\n".join(path for path in sys.path if "packages" in path or path in SOURCES)
    target = f"{places.stdout.split()[0]}/same.pth"
    machine.run("sh", "-c", 'printf "%s\\n" "$0" > "$1"', lines, target, user=user)
    return python


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


def train(machine: Machine, run_directory: str, steps: int, user: str = "ada") -> None:
    uid = machine.run("id", "-u", user).stdout.strip()
    segments = f"/dev/shm/trackside-{uid}"  # noqa: S108 - where the daemon looks
    machine.run(
        *(sys.executable, str(TRAINER), segments, run_directory, str(steps)),
        user=user,
    )


def history(machine: Machine, run_directory: str) -> list[int]:
    done = machine.run("cat", f"{run_directory}/history.jsonl", check=False)
    return [json.loads(line)["step"] for line in done.stdout.splitlines()]


def test_install_runs_a_daemon_as_the_user(service: Machine):
    pid = main_pid(service)

    assert service.property(UNIT, "ActiveState") == "active"
    assert service.property(UNIT, "UnitFileState") == "enabled"
    assert service.run("stat", "-c", "%U", f"/proc/{pid}").stdout.strip() == "ada"


def test_the_start_is_over_only_when_the_daemon_listens(service: Machine):
    uid = service.run("id", "-u", "ada").stdout.strip()
    socket = f"/dev/shm/trackside-{uid}/daemon.sock"  # noqa: S108 - where the daemon listens
    service.run("systemctl", "stop", UNIT)
    assert service.run("test", "-S", socket, check=False).returncode != 0

    service.run("systemctl", "start", UNIT)

    service.run("test", "-S", socket)  # at once, with no wait


def test_the_installed_units_verify_without_a_word(service: Machine):
    done = service.run("systemd-analyze", "verify", UNIT)

    assert done.stderr == ""


def test_the_running_service_is_hardly_exposed(service: Machine):
    service.run("systemd-analyze", "security", "--threshold=12", UNIT)


def test_the_daemon_takes_only_idle_time(service: Machine):
    status = service.run("chrt", "--pid", main_pid(service)).stdout

    assert "SCHED_IDLE" in status
    assert service.property("trackside.slice", "CPUWeight") == "1"


def test_the_installation_of_another_user_changes_nothing_for_this_one(service: Machine):
    service.run("useradd", "--create-home", "bob")
    service.run("chmod", "700", "/home/bob")
    python = install_beside(service, "/home/bob/venv", user="bob")
    before = service.property(UNIT, "ExecStart")

    service.run(
        *(python, "-P", "-m", "tracksided"),
        *("service", "install", "--system", "--for", "bob", "--no-start"),
    )

    assert python in service.property("trackside@bob.service", "ExecStart")
    assert sys.executable in before
    assert python not in service.property(UNIT, "ExecStart")
    service.run("systemctl", "restart", UNIT)
    service.trackside("service", "uninstall", "--system", "--for", "bob")


def test_the_doctor_restarts_a_service_as_such(service: Machine):
    gather = "import os, pathlib, tracksided.doctor.gather as g; from trackside.wire import segment"
    gather += (
        "; here = pathlib.Path(); facts = g.gather(segment.node_directory(os.environ), [], here)"
    )

    said = service.run(
        sys.executable, "-P", "-c", f"{gather}; print(facts.daemon.restart)", user="ada"
    )

    assert said.stdout.strip() == f"sudo systemctl restart {UNIT}"


def test_the_service_of_a_user_who_is_no_more_is_uninstalled(service: Machine):
    service.run("useradd", "--create-home", "carl")
    service.trackside("service", "install", "--system", "--for", "carl", "--no-start")
    service.run("userdel", "carl")

    service.trackside("service", "uninstall", "--system", "--for", "carl")

    assert "carl" not in service.run("find", "/etc/systemd/system").stdout
    assert service.property(UNIT, "ActiveState") == "active"


def test_a_killed_daemon_comes_back(service: Machine):
    pid = main_pid(service)

    service.run("systemctl", "kill", "--signal=SIGKILL", "--kill-who=main", UNIT)

    wait_until_it_runs_again(service, pid)


def test_a_stopped_daemon_is_ended_by_the_watchdog(service: Machine):
    be_impatient(service, watchdog="2s")
    service.run("systemctl", "restart", UNIT)
    pid = main_pid(service)

    service.run("kill", "-STOP", pid)

    wait_until_it_runs_again(service, pid)
    assert "Watchdog timeout" in service.journal(UNIT)
    be_impatient(service, watchdog="60s")
    service.run("systemctl", "restart", UNIT)


def test_stop_ends_the_daemon_in_order(service: Machine):
    service.run("systemctl", "stop", UNIT)

    assert service.property(UNIT, "Result") == "success"
    assert service.property(UNIT, "ExecMainStatus") == "0"
    assert service.property(UNIT, "ExecMainCode") == "1"  # CLD_EXITED, not killed


@pytest.mark.parametrize("directory", ["/home/ada/runs/one", f"{OPENED}/one"])
def test_the_daemon_of_the_service_writes_the_outputs_of_a_run(service: Machine, directory: str):

    train(service, directory, 3)

    wait_for(
        lambda: len(history(service, directory)) == 3,
        RESTART_DEADLINE_S,
        lambda: service.journal(UNIT),
    )
    outputs = service.run("ls", f"{directory}/step_3").stdout.split()
    assert "decoder_layer0_self_attn.png" in outputs


def test_reload_reads_the_settings_and_checkpoints_are_averaged(service: Machine):
    directory = "/home/ada/checkpoints"
    service.run("mkdir", "-p", directory, "/home/ada/.config/trackside", user="ada")
    for step in (1, 2, 3):
        write = (sys.executable, "-c", WRITE_CHECKPOINT, f"{directory}/step_{step}.safetensors")
        service.run(*write, str(float(step)), user="ada")
    settings = f'[checkpoints]\ndirectories = ["{directory}"]\npoll_seconds = 0.2\n'
    target = "/home/ada/.config/trackside/daemon.toml"
    service.run("sh", "-c", 'printf "%s" "$0" > "$1"', settings, target, user="ada")

    service.run("systemctl", "reload", UNIT)

    average = f"{directory}/averaged_model.safetensors"
    wait_for(
        lambda: service.run("test", "-e", average, check=False).returncode == 0,
        RESTART_DEADLINE_S,
        lambda: service.journal(UNIT),
    )
    (value,) = struct.unpack("<f", bytes.fromhex(service.run(*TO_HEX, average).stdout)[-4:])
    assert value == 2.0
    service.run("rm", target)


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


def test_a_daemon_of_root_writes_in_its_home(service: Machine):
    directory = "/root/runs/one"
    service.trackside("service", "install", "--system", "--for", "root")

    train(service, directory, 3, user="root")

    wait_for(
        lambda: len(history(service, directory)) == 3,
        RESTART_DEADLINE_S,
        lambda: service.journal("trackside@root.service"),
    )
    service.run("systemd-analyze", "security", "--threshold=12", "trackside@root.service")
    service.trackside("service", "uninstall", "--system", "--for", "root")
    assert service.property(UNIT, "ActiveState") == "active"


def test_an_output_that_the_service_may_not_write_is_named(service: Machine):
    service.run("install", "-d", "-o", "ada", "/data")

    train(service, "/data/one", 1)

    wait_for(
        lambda: "cannot write /data/one: Read-only file system" in service.journal(UNIT),
        RESTART_DEADLINE_S,
        lambda: service.journal(UNIT),
    )


def test_http_is_served_to_this_machine_where_it_is_asked_for(service: Machine):
    install = ("service", "install", "--system", "--for", "ada", "--read-write", OPENED)
    ask = (sys.executable, "-c", ASK_HEALTH)

    said = service.trackside(*install, "--http").stdout

    assert "it serves HTTP at http://127.0.0.1:9470/" in said
    wait_for(
        lambda: '"status":"ok"' in service.run(*ask, check=False).stdout,
        RESTART_DEADLINE_S,
        lambda: service.journal(UNIT),
    )

    service.trackside(*install)

    assert service.run(*ask, check=False).returncode != 0
    assert service.property(UNIT, "PrivateNetwork") == "yes"
