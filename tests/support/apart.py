"""Commands as another user, or with process ids of their own: what Linux offers root.

The interpreter may lie where only root may pass, such as root's home: another user's command
gets a mount namespace in which what it needs to read can be reached.
"""

import functools
import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
OTHERS_PASS = 0o001

# For each pair CLOSED NEEDED: an empty file system over CLOSED that shows NEEDED alone.
_OPEN_UP = """
while [ "$1" != -- ]; do
    mount -t tmpfs -o mode=755 opened /mnt
    mkdir -p "/mnt/${2#"$1"}"
    mount --bind "$2" "/mnt/${2#"$1"}"
    mount --move /mnt "$1"
    shift 2
done
shift
exec "$@"
"""
_MOUNTS = ("unshare", "--mount", "--propagation", "private")


def as_user(uid: int, *command: str | Path) -> list[str]:
    """Return a command that runs as a user without any right of root's; only for root."""
    pairs = [str(path) for pair in _closed() for path in pair]
    ids = (f"--reuid={uid}", f"--regid={uid}", "--clear-groups")
    powerless = ("--bounding-set=-all", "--inh-caps=-all", "--no-new-privs")
    become = ("setpriv", *ids, *powerless)
    return [*_MOUNTS, "sh", "-c", _OPEN_UP, "sh", *pairs, "--", *become, *map(str, command)]


def with_own_pids(*command: str | Path) -> list[str]:
    """Return a command that is process 1 of its own PID namespace, as in a container."""
    return [*_MOUNTS, "--pid", "--fork", "--kill-child", "--mount-proc", *map(str, command)]


@functools.cache
def why_not() -> str | None:
    """Return why neither can be had here; None where both can."""
    if os.geteuid() != 0:
        return "other users and namespaces need root"
    probes = (with_own_pids("true"), as_user(54321, sys.executable, "-c", ""))
    for probe in probes:
        try:
            done = subprocess.run(probe, capture_output=True, text=True, check=False)
        except FileNotFoundError as error:
            return f"{error.filename} is not installed"
        if done.returncode != 0:
            return f"not allowed here: {done.stderr.strip()}"
    return None


def _closed() -> list[tuple[Path, Path]]:
    """Pair each directory that only root may pass with what is needed below it."""
    needed = {Path(sys.base_prefix).resolve(), Path(sys.prefix).resolve(), REPOSITORY}
    pairs = []
    for path in sorted(needed):
        above = [place for place in path.parents if not place.stat().st_mode & OTHERS_PASS]
        if above:
            pairs.append((above[-1], path))
    assert len({closed for closed, _ in pairs}) == len(pairs), "one would hide the other"
    return pairs
