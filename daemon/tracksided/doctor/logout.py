"""Check of what happens to shared memory at logout."""

from collections.abc import Iterator

from tracksided.doctor.facts import Facts
from tracksided.doctor.finding import Finding, ok, warn

FIRST_USER = 1000  # logind spares the files of system users


def check_logout(facts: Facts) -> Iterator[Finding]:
    """Will logind delete the rings of a training that outlives its login?"""
    check = "logout"
    if not facts.has_logind:
        yield ok(check, "no systemd-logind here")
    elif facts.uid < FIRST_USER:
        yield ok(check, "systemd-logind spares the files of system users")
    elif not facts.removes_ipc:
        yield ok(check, "RemoveIPC=no: shared memory outlives the login")
    elif facts.lingers:
        yield ok(check, f"{facts.user} lingers: shared memory outlives the login")
    else:
        yield warn(
            check,
            "systemd-logind deletes your shared memory when your last session ends "
            "(RemoveIPC=yes); a training in tmux is then not recorded any more",
            f"run: loginctl enable-linger {facts.user}; or RemoveIPC=no in "
            "/etc/systemd/logind.conf",
        )
