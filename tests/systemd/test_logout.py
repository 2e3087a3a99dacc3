"""A user logs out while their training goes on, under a real systemd-logind with RemoveIPC."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from booted_machine import REPOSITORY, Machine, wait_for

UNIT = "trackside@ada.service"
LOGIN, TRAINER = "login-of-ada", "training-of-ada"
SCRIPT = REPOSITORY / "tests/support/fake_trainer.py"
ENDLESS = "10000000"
DEADLINE_S = 60

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(
        not list(Path("/lib").glob("*/security/pam_systemd.so")),
        reason="without pam_systemd nobody logs in",
    ),
]


@pytest.fixture
def training(machine: Machine, request: pytest.FixtureRequest) -> Iterator[str]:
    """A training as in tmux, begun in a session that is over by now; yields its save_dir."""
    lingers, name = request.param
    save_dir = f"/home/ada/runs/{name}"
    machine.run("loginctl", "enable-linger" if lingers else "disable-linger", "ada")
    machine.trackside("service", "install", "--system", "--for", "ada")
    log_in = ("--uid=ada", f"--unit={LOGIN}", "--property=PAMName=login")
    machine.run("systemd-run", *log_in, "sleep", "infinity")
    wait_for(lambda: state(machine) in {"active", "online"}, DEADLINE_S, lambda: journal(machine))
    train = (sys.executable, str(SCRIPT), node(machine), save_dir, ENDLESS)
    machine.run("systemd-run", "--uid=ada", f"--unit={TRAINER}", *train)
    wait_for(lambda: num_steps(machine, save_dir) > 0, DEADLINE_S, lambda: machine.journal(UNIT))
    machine.run("systemctl", "stop", LOGIN)
    yield save_dir
    machine.run("systemctl", "stop", TRAINER, check=False)
    machine.trackside("service", "uninstall", "--system", "--for", "ada")
    machine.run("loginctl", "disable-linger", "ada")
    machine.run("sh", "-c", f"rm -rf {node(machine)}")


def node(machine: Machine) -> str:
    uid = machine.run("id", "-u", "ada").stdout.strip()
    return f"/dev/shm/trackside-{uid}"  # noqa: S108 - where the daemon looks


def state(machine: Machine) -> str:
    """Return what logind says of ada; nothing where it does not know her (any more)."""
    shown = machine.run("loginctl", "show-user", "--value", "-p", "State", "ada", check=False)
    return shown.stdout.strip()


def journal(machine: Machine) -> str:
    return machine.journal(LOGIN) + machine.journal("systemd-logind")


def lines(machine: Machine, save_dir: str) -> list[dict[str, object]]:
    done = machine.run("cat", f"{save_dir}/history.jsonl", check=False)
    return [json.loads(line) for line in done.stdout.splitlines() if line.endswith("}")]


def num_steps(machine: Machine, save_dir: str) -> int:
    return len(lines(machine, save_dir))


def has_segments(machine: Machine) -> bool:
    done = machine.run("sh", "-c", f"ls {node(machine)}/*.ring", check=False)
    return done.returncode == 0


@pytest.mark.parametrize("training", [(True, "lingers")], indirect=True)
def test_a_training_of_a_user_who_lingers_is_recorded_on_after_the_logout(
    machine: Machine, training: str
):
    wait_for(lambda: state(machine) == "lingering", DEADLINE_S, lambda: journal(machine))
    before = num_steps(machine, training)

    wait_for(lambda: num_steps(machine, training) > before + 5, DEADLINE_S)

    assert has_segments(machine)
    assert machine.property(UNIT, "ActiveState") == "active"


@pytest.mark.parametrize("training", [(False, "does-not")], indirect=True)
def test_a_logout_that_removes_the_ring_is_named_with_its_mend(machine: Machine, training: str):
    doctor = machine.trackside("doctor", user="ada", check="no").stdout
    wait_for(lambda: not has_segments(machine), DEADLINE_S, lambda: journal(machine))

    wait_for(
        lambda: "enable-linger" in machine.journal(UNIT),
        DEADLINE_S,
        lambda: machine.journal(UNIT),
    )
    assert "loginctl enable-linger ada" in doctor
    assert machine.property(f"{TRAINER}.service", "ActiveState") == "active"  # it trains on
    assert machine.property(UNIT, "ActiveState") == "active"
    steps = [line["step"] for line in lines(machine, training)]
    assert len(steps) == len(set(steps))


@pytest.mark.parametrize("training", [(True, "watched")], indirect=True)
def test_the_hardened_daemon_reads_the_memory_of_its_user_s_trainers(
    machine: Machine, training: str
):
    pid = int(machine.property(f"{TRAINER}.service", "MainPID"))

    def processes() -> list[dict[str, object]]:
        hosts = [line["host"] for line in lines(machine, training)[-1:] if line["host"]]
        return [entry for host in hosts for entry in host["processes"]]

    wait_for(lambda: bool(processes()), DEADLINE_S, lambda: machine.journal(UNIT))
    (found,) = processes()
    assert found["pid"] == pid
    assert found["rss_bytes"] > 1 << 20
    said = machine.run("journalctl", "--no-pager", "-o", "cat", "-u", UNIT).stdout
    complaints = [line for line in said.splitlines() if "tracksided.monitors" in line]
    assert complaints == []
