"""`trackside service install --user` on a machine with a real systemd."""

import sys
from collections.abc import Iterator

import pytest
from booted_machine import Machine, wait_for

pytestmark = pytest.mark.integration

UNIT = "trackside.service"
LINGER = "/var/lib/systemd/linger/ada"
DEADLINE_S = 60


class Login:
    """What ada types in a shell of her own."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        uid = machine.run("id", "-u", "ada").stdout.strip()
        self.runtime_directory = f"/run/user/{uid}"

    def systemctl(self, *arguments: str, check: bool = True) -> str:
        return self._machine.run(
            *("systemctl", "--user", *arguments),
            user="ada",
            check=check,
            XDG_RUNTIME_DIR=self.runtime_directory,
        ).stdout.strip()

    def wait_until_over(self) -> None:
        def is_over() -> bool:
            return (
                self._machine.run("test", "-e", self.runtime_directory, check=False).returncode != 0
            )

        wait_for(is_over, DEADLINE_S)

    def trackside(self, *arguments: str, check: str = "yes", **environment: str) -> str:
        done = self._machine.trackside(*arguments, user="ada", check=check, **environment)
        return done.stdout + done.stderr


@pytest.fixture
def login(machine: Machine) -> Iterator[Login]:
    login = Login(machine)
    machine.run("loginctl", "enable-linger", "ada")
    wait_for(
        lambda: login.systemctl("is-system-running", check=False) in {"running", "degraded"},
        DEADLINE_S,
        lambda: machine.journal("user@*"),
    )
    yield login
    machine.run("loginctl", "disable-linger", "ada")
    login.wait_until_over()


def test_without_a_service_manager_of_the_user_nothing_is_written(machine: Machine):
    Login(machine).wait_until_over()  # her manager outlives a login of another file by 10 s

    done = machine.trackside("service", "install", user="ada", check="no")

    assert done.returncode == 1
    assert "no service manager runs for this user" in done.stderr
    assert machine.run("find", "/home/ada", "-path", "*/systemd/user/*").stdout == ""


def test_install_runs_the_daemon_and_uninstall_ends_it(login: Login):
    said = login.trackside("service", "install")

    assert "trackside.service is enabled and runs" in said
    assert "RemoveIPC" not in said  # ada lingers
    assert login.systemctl("is-active", UNIT) == "active"
    assert login.systemctl("is-enabled", UNIT) == "enabled"

    login.trackside("service", "uninstall")

    assert login.systemctl("is-active", UNIT, check=False) == "inactive"
    assert login.systemctl("list-unit-files", UNIT, "--no-legend", check=False) == ""


def test_a_moved_directory_is_forgotten_by_an_installation_without_it(
    login: Login, machine: Machine
):
    moved = "/dev/shm/of-ada"  # noqa: S108 - in the machine's own /dev/shm
    login.trackside("service", "install", TRACKSIDE_SHM_DIR=moved)
    login.trackside("status", TRACKSIDE_SHM_DIR=moved)  # exit code 3 without a daemon there

    login.trackside("service", "install")

    login.trackside("status")
    assert "no daemon" in login.trackside("status", check="no", TRACKSIDE_SHM_DIR=moved)
    login.trackside("service", "install", "--no-start", TRACKSIDE_SHM_DIR=moved)
    login.trackside("service", "uninstall")
    assert machine.run("find", "/home/ada/.config", "-name", "*.conf").stdout == ""


def test_the_daemon_of_the_users_service_comes_back(login: Login):
    login.trackside("service", "install")
    pid = login.systemctl("show", "--value", "-p", "MainPID", UNIT)

    login.systemctl("kill", "--signal=SIGKILL", "--kill-who=main", UNIT)

    wait_for(
        lambda: (
            login.systemctl("show", "--value", "-p", "MainPID", UNIT) not in {"0", pid}
            and login.systemctl("is-active", UNIT, check=False) == "active"
        ),
        DEADLINE_S,
    )
    login.trackside("service", "uninstall")


def test_without_linger_the_install_warns_of_removed_segments(login: Login, machine: Machine):
    # logind reads its mark only when asked: ada's service manager runs on.
    machine.run("mv", LINGER, f"{LINGER}.hidden")

    said = login.trackside("service", "install", "--no-start")
    machine.run("mv", f"{LINGER}.hidden", LINGER)

    assert "RemoveIPC" in said
    assert "loginctl enable-linger ada" in said
    assert login.systemctl("is-active", UNIT, check=False) == "inactive"
    login.trackside("service", "uninstall")


def test_a_daemon_that_holds_the_place_is_named_and_followed(login: Login, machine: Machine):
    machine.run(
        *("systemd-run", "--uid=ada", "--unit=by-hand", "--property=Type=notify"),
        *(sys.executable, "-P", "-m", "tracksided", "daemon"),
    )
    pid = machine.property("by-hand.service", "MainPID")

    said = login.trackside("service", "install", check="no")

    assert f"end it with `kill {pid}`" in said
    machine.run("kill", pid)
    wait_for(lambda: login.systemctl("is-active", UNIT, check=False) == "active", DEADLINE_S)
    login.trackside("service", "uninstall")
