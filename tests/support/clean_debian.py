"""A Debian with nothing on it, made by debootstrap and gone when the block ends.

Commands run in namespaces of their own: mounts, processes and /dev/shm end with each command, and
no mount is ever seen outside, so that the directory can be removed at any moment.
"""

import contextlib
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

ENTER = Path(__file__).parents[1] / "newcomer" / "enter.sh"
GIVEN = "/mnt/given"
HOSTNAME = "newcomer"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# The child dies with us, also where we are killed; its mounts and processes die with it.
ALONE = ("setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--pid", "--uts", "--ipc")
ALONE += ("--fork", "--kill-child", "--propagation", "private")


class CommandFailed(Exception):
    """A command ended with another exit code than 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CleanDebian:
    """One root directory."""

    root: Path
    environ: Mapping[str, str]
    """Set for every command, besides HOME, USER and PATH."""
    files: Sequence[Path]
    """Of this machine, seen inside below ``GIVEN``, read-only."""

    def run(self, command: str, *, user: str, log: Path) -> float:
        """Run a line of shell in the user's home.

        Returns:
            Seconds.

        Raises:
            CommandFailed: with the end of the log.
        """
        home = "/root" if user == "root" else f"/home/{user}"
        environ = {**self.environ, "HOME": home, "USER": user, "PATH": PATH}
        settings = [f"{name}={value}" for name, value in environ.items()]
        inside = ["runuser", "-u", user, "--", "env", "-i", "-C", home, *settings]
        inside += ["bash", "-c", command]
        return _run([*ALONE, ENTER, self.root, *self.files, "--", *inside], log)


@contextlib.contextmanager
def debian(
    suite: str, *, scratch: Path, log: Path, environ: Mapping[str, str], files: Sequence[Path]
) -> Iterator[CleanDebian]:
    """Make a minimal Debian below a directory, and remove it at the end.

    Raises:
        CommandFailed: debootstrap failed.
    """
    root = Path(tempfile.mkdtemp(prefix=f"newcomer-{suite}-", dir=scratch))
    try:
        root.chmod(0o755)  # the users inside pass through it
        _run([*ALONE, "debootstrap", "--variant=minbase", suite, root], log)
        _name(root)
        yield CleanDebian(root=root, environ=environ, files=files)
    finally:
        _remove(root)


def _name(root: Path) -> None:
    """Name the machine, and let it find itself by its names, as Debian's installer does."""
    (root / "etc/hostname").write_text(f"{HOSTNAME}\n")
    (root / "etc/hosts").write_text(
        f"127.0.0.1\tlocalhost\n127.0.1.1\t{HOSTNAME}\n::1\tlocalhost ip6-localhost ip6-loopback\n"
    )


def _run(arguments: Sequence[str | Path], log: Path) -> float:
    started = time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(argument) for argument in arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is ours alone
        )
        try:
            code = process.wait()
        except BaseException:
            _end(process)
            raise
    if code != 0:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-20:])
        raise CommandFailed(f"exit code {code}, {log}:\n{tail}")
    return time.monotonic() - started


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill PID 1 of the namespaces: it is gone only when all of its processes are."""
    for child in psutil.Process(process.pid).children():
        with contextlib.suppress(psutil.NoSuchProcess):
            child.send_signal(signal.SIGKILL)
    process.wait()


def _remove(root: Path) -> None:
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    inside = [line.split()[4] for line in mounts if line.split()[4].startswith(f"{root}/")]
    if inside:  # nothing here makes one; somebody looked around
        raise OSError(f"{root} is not removed: {', '.join(inside)} are mounted in it")
    shutil.rmtree(root)
