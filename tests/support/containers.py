"""Containers as Docker makes them and as a pod holds them, out of Linux namespaces; needs root.

As a program it is a stand-in for `docker run`, `exec` and `stop`, with the options that the guide
uses. The root file system is the machine's: what differs is what matters here, process ids,
/dev/shm and users.
"""

import argparse
import os
import secrets
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

STATE = "STAND_IN_CONTAINERS"  # variable: a directory, with a file for each running container
NEW_NAMESPACES = (
    *("unshare", "--mount", "--propagation", "private", "--ipc", "--pid"),
    *("--fork", "--kill-child", "--mount-proc"),
)
STOP_LIMIT_S = 60.0
NAME_IN_USE = 125  # exit status of `docker run` where it cannot begin

# $1: size of /dev/shm, empty to leave it; then pairs of places below it; then what is run.
_OWN_MEMORY = """
size=$1; shift
n=0
if [ -n "$size" ]; then
    held=$(mktemp -d)
    mount -t tmpfs held "$held"
    for pair in "$@"; do
        [ "$pair" = -- ] && break
        n=$((n + 1)); mkdir "$held/$n"; mount --bind "${pair%%:*}" "$held/$n"
    done
    mount -t tmpfs -o "size=$size,mode=1777" shm /dev/shm
fi
n=0
while [ "$1" != -- ]; do
    n=$((n + 1)); mkdir -p "${1##*:}"; mount --move "$held/$n" "${1##*:}"; shift
done
shift
exec "$@"
"""


def main(arguments: list[str]) -> int:
    verb, *rest = arguments
    state = Path(os.environ[STATE])
    if verb == "run":
        return _run(_options().parse_args(rest), state)
    name, *command = rest
    made = _Made.read(state / name)
    target = _first_process(made.pid)
    if verb == "exec":
        inside = ("nsenter", f"--target={target}", "--mount", "--pid")
        return subprocess.run([*inside, *command], check=False).returncode
    assert verb == "stop", verb
    os.kill(target, signal.SIGTERM)
    deadline = time.monotonic() + STOP_LIMIT_S
    while Path(f"/proc/{target}").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    if made.is_removed:
        (state / name).unlink()
    return int(Path(f"/proc/{target}").exists())


@dataclass(frozen=True)
class _Made:
    """A container under its name, which stays taken after its end."""

    pid: int
    """Of the process outside that made its namespaces."""

    is_removed: bool
    """With ``--rm`` the name is free again when it has ended."""

    @classmethod
    def read(cls, path: Path) -> "_Made":
        pid, is_removed = path.read_text().split()
        return cls(int(pid), is_removed == str(True))

    def write(self, path: Path) -> None:
        path.write_text(f"{self.pid} {self.is_removed}")


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    for flag in ("--rm", "-d"):
        parser.add_argument(flag, action="store_true")
    parser.add_argument("--name", default=secrets.token_hex(4))
    parser.add_argument("--ipc", default="private")
    parser.add_argument("--shm-size", default="64m")
    parser.add_argument("--user", required=True)
    parser.add_argument("-v", action="append", default=[])
    parser.add_argument("-e", action="append", default=[])
    parser.add_argument("-w", required=True)
    parser.add_argument("image")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    return parser


def _run(options: argparse.Namespace, state: Path) -> int:
    if (state / options.name).exists():
        sys.stderr.write(f"the name {options.name} is in use\n")
        return NAME_IN_USE
    uid, gid = options.user.split(":")
    start: list[str] = []
    size, shared = options.shm_size, [pair for pair in options.v if pair.startswith("/dev/shm/")]  # noqa: S108 - the real thing
    if options.ipc.startswith("container:"):
        other = _Made.read(state / options.ipc.partition(":")[2])
        start = ["nsenter", f"--target={_first_process(other.pid)}", "--mount"]
        size = ""
    become = ["setpriv", f"--reuid={uid}", f"--regid={gid}", "--clear-groups"]
    become += ["env", f"--chdir={options.w}", *options.e]
    memory = ["sh", "-c", _OWN_MEMORY, "sh", size, *shared, "--"]
    command = [*start, *NEW_NAMESPACES, *memory, *become, *options.command]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    _Made(process.pid, is_removed=options.rm).write(state / options.name)
    if options.d:
        return 0
    code = process.wait()
    if options.rm:
        (state / options.name).unlink()
    return code


def _first_process(unshare: int) -> int:
    """Return the process that is number 1 in the namespace that `unshare` made."""
    deadline = time.monotonic() + STOP_LIMIT_S
    while time.monotonic() < deadline:
        children = Path(f"/proc/{unshare}/task/{unshare}/children").read_text().split()
        if children:
            return int(children[0])
        time.sleep(0.01)
    raise TimeoutError(f"process {unshare} starts nothing")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
