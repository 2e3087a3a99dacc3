"""A machine with a real systemd, booted in namespaces of its own; nothing of the host changes."""

import contextlib
import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
BOOT = REPOSITORY / "tests/systemd/boot.sh"
SYSTEMD = Path("/lib/systemd/systemd")
BOOT_DEADLINE_S = 60
PROGRAMS = ("unshare", "nsenter", "runuser", "useradd", "systemctl", "loginctl", "dbus-daemon")
# Alone, or beside version 1.
CGROUP_PLACES = (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified"))
# What boot.sh mounts anew; a checkout may lie there.
FRESH_MOUNTS = ("/tmp", "/run", "/dev")  # noqa: S108 - compared with
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Machine:
    """A booted systemd: commands run inside it, nothing of the host is changed."""

    def __init__(self, directory: Path) -> None:
        self._cgroup_root = next(place for place in CGROUP_PLACES if is_cgroup2(place))
        self._cgroup = self._cgroup_root / f"trackside-test-{secrets.token_hex(4)}"
        self._console = directory / "console.log"
        self._cgroup.mkdir()
        with self._console.open("wb") as console:
            self._outer = subprocess.Popen(
                [
                    *("bash", "-c", 'echo $$ >"$0/cgroup.procs"; exec "$@"', str(self._cgroup)),
                    *("unshare", "--mount", "--pid", "--uts", "--ipc", "--net", "--cgroup"),
                    *("--fork", "--kill-child", "--propagation", "private"),
                    *("bash", str(BOOT), str(directory / "base")),
                    *(str(path) for path in hidden_directories()),
                ],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                start_new_session=True,
            )
        self._init = 0

    def boot(self) -> None:
        """Wait until systemd has started everything."""
        wait_for(self._find_init, BOOT_DEADLINE_S, self.console)
        # A process from outside the cgroup namespace would be pid 0 to systemd.
        (self._cgroup_root / "cgroup.procs").write_text(f"{self._outer.pid}", encoding="ascii")
        wait_for(self._has_booted, BOOT_DEADLINE_S, self.console)

    def run(
        self,
        *command: str,
        user: str | None = None,
        check: bool = True,
        timeout_s: float = 120,
        **environment: str,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command inside and return what it said; by default it must succeed."""
        become = () if user is None else ("runuser", "-u", user, "--")
        home = "/root" if user is None else f"/home/{user}"
        settings = {"PATH": PATH, "LANG": "C.UTF-8", "HOME": home, **environment}
        done = subprocess.run(
            [
                *("nsenter", "-t", str(self._init), "-m", "-u", "-i", "-n", "-p", "-C", "-r", "-w"),
                *("--", *become, "env", "-i"),
                *(f"{name}={value}" for name, value in settings.items()),
                *command,
            ],
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        if check:
            said = f"{' '.join(command)}: {done.returncode}\n{done.stdout}{done.stderr}"
            assert done.returncode == 0, said
        return done

    def trackside(self, *arguments: str, **options: str) -> subprocess.CompletedProcess[str]:
        """Run the `trackside` command inside, as root or as ``user``."""
        user = options.pop("user", None)
        return self.run(
            *(sys.executable, "-P", "-m", "tracksided", *arguments),
            user=user,
            check=options.pop("check", "yes") == "yes",
            **options,
        )

    def property(self, unit: str, name: str, *scope: str) -> str:
        """Return a property of a unit as systemd sees it."""
        return self.run("systemctl", *scope, "show", "--value", "-p", name, unit).stdout.strip()

    def journal(self, unit: str) -> str:
        """Return what the unit wrote."""
        return self.run("journalctl", "--no-pager", "-u", unit, check=False).stdout

    def console(self) -> str:
        """Return what the boot said, for messages."""
        return self._console.read_text(encoding="utf-8", errors="replace")

    def halt(self) -> None:
        """End all processes of the machine and remove its cgroups."""
        self._outer.kill()  # --kill-child: systemd and all of its PID namespace go too
        self._outer.wait()
        wait_for(self._cgroup_is_empty, BOOT_DEADLINE_S, self.console)
        for directory in sorted(self._cgroup.rglob("*/"), reverse=True):
            directory.rmdir()
        self._cgroup.rmdir()

    def _find_init(self) -> bool:
        assert self._outer.poll() is None, self.console()
        pid = self._outer.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
        if len(children) != 1:
            return False
        with contextlib.suppress(FileNotFoundError):
            name = Path(f"/proc/{children[0]}/comm").read_text(encoding="ascii").strip()
            self._init = int(children[0]) if name == "systemd" else 0
        return self._init != 0

    def _has_booted(self) -> bool:
        state = self.run("systemctl", "is-system-running", check=False).stdout.strip()
        return state in {"running", "degraded"}

    def _cgroup_is_empty(self) -> bool:
        events = (self._cgroup / "cgroup.events").read_text(encoding="ascii")
        return "populated 0" in events


def why_not() -> str | None:
    """Return why no machine can be booted here; None where one can."""
    if os.geteuid() != 0:
        return "booting systemd in namespaces needs root"
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing or not SYSTEMD.exists():
        return f"systemd is not installed here: {', '.join(missing) or SYSTEMD}"
    if not any(is_cgroup2(place) for place in CGROUP_PLACES):
        return "no cgroup2 hierarchy here"
    probe = ("unshare", "--mount", "--pid", "--fork", "mount", "-t", "tmpfs", "probe", "/mnt")
    allowed = subprocess.run(probe, capture_output=True, text=True, check=False)
    if allowed.returncode != 0:
        return f"namespaces are not allowed here: {allowed.stderr.strip()}"
    return None


def is_cgroup2(place: Path) -> bool:
    return (place / "cgroup.controllers").is_file() and os.access(place, os.W_OK)


def hidden_directories() -> list[Path]:
    """Return what the tests need and an overlay of / with fresh mounts on it does not show."""
    needed = {REPOSITORY, Path(sys.prefix), Path(sys.base_prefix)}
    device = Path("/").stat().st_dev
    return sorted(
        path
        for path in needed
        if path.stat().st_dev != device or any(path.is_relative_to(top) for top in FRESH_MOUNTS)
    )


def wait_for(
    condition: Callable[[], bool], deadline_s: float, explain: Callable[[], str] = str
) -> None:
    """Look until the condition holds; fail with an explanation when the deadline has passed."""
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, f"not within {deadline_s} s: {explain()}"
        time.sleep(0.05)
