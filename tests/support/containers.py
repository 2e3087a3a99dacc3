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
from pathlib import Path

STATE = "STAND_IN_CONTAINERS"  # variable: a directory, with a file for each running container
NEW_NAMESPACES = (
    *("unshare", "--mount", "--propagation", "private", "--ipc", "--pid"),
    *("--fork", "--kill-child", "--mount-proc"),
)
STOP_LIMIT_S = 60.0

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
    target = _first_process(int((state / name).read_text()))
    if verb == "exec":
        inside = ("nsenter", f"--target={target}", "--mount", "--pid")
        return subprocess.run([*inside, *command], check=False).returncode
    assert verb == "stop", verb
    os.kill(target, signal.SIGTERM)
    deadline = time.monotonic() + STOP_LIMIT_S
    while Path(f"/proc/{target}").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    return int(Path(f"/proc/{target}").exists())


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
    uid, gid = options.user.split(":")
    start: list[str] = []
    size, shared = options.shm_size, [pair for pair in options.v if pair.startswith("/dev/shm/")]  # noqa: S108 - the real thing
    if options.ipc.startswith("container:"):
        other = (state / options.ipc.partition(":")[2]).read_text()
        start = ["nsenter", f"--target={_first_process(int(other))}", "--mount"]
        size = ""
    become = ["setpriv", f"--reuid={uid}", f"--regid={gid}", "--clear-groups"]
    become += ["env", f"--chdir={options.w}", *options.e]
    memory = ["sh", "-c", _OWN_MEMORY, "sh", size, *shared, "--"]
    command = [*start, *NEW_NAMESPACES, *memory, *become, *options.command]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    (state / options.name).write_text(str(process.pid))
    return 0 if options.d else process.wait()


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
