"""The lines of the pages about services, typed on a machine with a real systemd."""

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from booted_machine import PATH, Machine, wait_for
from claimed_lines import SERVICES, lines_of

pytestmark = pytest.mark.integration

BIN = Path(sys.executable).parent
DEADLINE_S = 60
LINES = tuple(dict.fromkeys(line.text for line in lines_of(SERVICES)))
# Where `systemctl edit` puts what was edited, which no uninstallation takes along.
EDITED = (
    "/home/ada/.config/systemd/user/trackside.service.d",
    "/etc/systemd/system/trackside@ada.service.d",
)
UNITS = {"--user": "trackside.service", "--system": "trackside@ada.service"}
# What somebody does who is asked to edit a file.
EDITOR = r"""#!/bin/sh
printf '[Service]\nEnvironment=EDITED=1\n' > "$1"
"""


class Reader:
    """Types lines about one kind of service: as ada about hers, as root about the machine's."""

    def __init__(self, machine: Machine, scope: str) -> None:
        self.machine = machine
        self.scope = scope
        self.uid = machine.run("id", "-u", "ada").stdout.strip()

    def type(self, line: str, *, check: bool = True) -> str:
        """Type a line, with the names of this machine in it; return what it said."""
        own = {"/path/to/venv/bin": str(BIN), "alice": "ada", "USER": "ada"}
        for name, value in own.items():
            line = line.replace(name, value)
        if shutil.which("sudo") is None:
            line = line.removeprefix("sudo ")
        done = self.machine.run(
            *("bash", "-c", line),
            user="ada" if self.scope == "--user" else None,
            check=check,
            PATH=f"{BIN}:{PATH}",
            XDG_RUNTIME_DIR=f"/run/user/{self.uid}",
            SYSTEMD_EDITOR="/run/editor",
            TERM="dumb",
        )
        return done.stdout + done.stderr

    def systemctl(self, words: str) -> str:
        """Ask about the service; what is asked may be false."""
        line = f"systemctl {self.scope} {words} {UNITS[self.scope]}"
        return self.type(line, check=False).strip()

    def lines(self, words: str) -> list[str]:
        """Return the lines of the pages that begin with some words, about this kind of service."""
        found = [line for line in LINES if words in line]
        is_system = {line: "--system" in line or "@" in line for line in found}
        return [line for line in found if is_system[line] == (self.scope == "--system")]


@pytest.fixture(params=list(UNITS))
def reader(machine: Machine, request: pytest.FixtureRequest) -> Iterator[Reader]:
    """One whose service manager runs, and who has a directory outside of the home."""
    root, ada = Reader(machine, "--system"), Reader(machine, "--user")
    machine.run("install", "-d", "-o", "ada", "/data")
    machine.run("sh", "-c", 'printf "%s" "$0" > /run/editor; chmod 755 /run/editor', EDITOR)
    (linger,) = (line for line in LINES if line.startswith("loginctl "))
    root.type(linger)
    wait_for(
        lambda: (
            ada.type("systemctl --user is-system-running", check=False).strip()
            in {"running", "degraded"}
        ),
        DEADLINE_S,
        lambda: machine.journal("user@*"),
    )
    yield {"--user": ada, "--system": root}[request.param]
    machine.run("rm", "-rf", *EDITED)
    machine.run("loginctl", "disable-linger", "ada")


def test_a_service_is_installed_watched_changed_and_uninstalled(reader: Reader) -> None:
    installing = reader.lines("service install")
    assert len(installing) == 2
    for line in installing:
        reader.type(line)

        assert reader.systemctl("is-active") == "active"
        assert ("/data" in reader.systemctl("cat")) == ("/data" in line)

    serving = f"serving /dev/shm/trackside-{reader.uid}"
    (journal,), (edit,) = reader.lines("journalctl"), reader.lines("systemctl")
    wait_for(lambda: serving in reader.type(journal), DEADLINE_S)

    reader.type(f"script --quiet --return --command '{edit}' /dev/null")
    reader.type(installing[-1])
    assert "EDITED=1" in reader.systemctl("show --property=Environment")

    (line,) = (line for line in LINES if " uninstall " in line)
    plain, _, optional = line.partition(" [")
    reader.type(plain if reader.scope == "--user" else f"{plain} {optional.rstrip(']')}")
    assert reader.systemctl("is-active") == "inactive"
    assert reader.systemctl("is-enabled") != "enabled"
