"""What `trackside service install` refuses, and that nothing is written then."""

import os
import sys

import pytest
from booted_machine import Machine

pytestmark = pytest.mark.integration

PRIVATE = "/opt/private"


def written(machine: Machine) -> str:
    places = ("/etc/systemd/system", "/home/ada/.config")
    return machine.run("find", *places, "-name", "*trackside*", check=False).stdout


def test_an_interpreter_that_the_user_cannot_run_is_refused(machine: Machine):
    machine.run("install", "-d", "-m", "700", PRIVATE)
    machine.run("ln", "-sf", sys.executable, f"{PRIVATE}/python")

    done = machine.run(
        *(f"{PRIVATE}/python", "-P", "-m", "tracksided"),
        *("service", "install", "--system", "--for", "ada"),
        check=False,
        PYTHONPATH=os.pathsep.join(sys.path),
    )

    assert done.returncode == 1
    assert f"ada cannot run {PRIVATE}/python" in done.stderr
    assert written(machine) == ""


def test_a_system_service_needs_root(machine: Machine):
    done = machine.trackside(
        "service", "install", "--system", "--for", "ada", user="ada", check="no"
    )

    assert done.returncode == 1
    assert "--system needs root" in done.stderr
    assert written(machine) == ""


def test_uninstalling_what_is_not_installed_says_so(machine: Machine):
    done = machine.trackside("service", "uninstall", "--system", "--for", "ada", check="no")

    assert done.returncode == 1
    assert "trackside@ada.service is not installed" in done.stderr
