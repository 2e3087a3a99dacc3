"""Memory limits of the cgroups in which processes run, version 1 and 2.

A process is bound by every cgroup on the way from its own to the root: the one that is nearest to
its limit counts.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

_MAX_FIELD = 1 << 60  # version 1 writes almost 2**63 where there is no limit


@dataclass(frozen=True, slots=True)
class CgroupMemory:
    """A cgroup with a memory limit."""

    used_bytes: int
    """Without inactive file pages, which the kernel drops before anything is killed."""

    limit_bytes: int
    pressure_file: Path
    """Its PSI file; version 1 has none."""


@dataclass(frozen=True, slots=True)
class _Hierarchy:
    """Where cgroups that control memory are mounted."""

    version: int
    root: PurePosixPath
    """The cgroup that is mounted, as ``/proc/<pid>/cgroup`` would name it."""

    mount: Path


_FILES = {
    1: ("memory.usage_in_bytes", "memory.limit_in_bytes"),
    2: ("memory.current", "memory.max"),
}
_INACTIVE = {1: "total_inactive_file", 2: "inactive_file"}


def limited_cgroups(pids: Sequence[int], proc: Path = Path("/proc")) -> list[CgroupMemory]:
    """Return every cgroup that limits one of these processes, each once.

    Empty where there are no limits, or none can be read.
    """
    hierarchies = list(_hierarchies(proc))
    places = dict.fromkeys(
        (hierarchy.version, directory)
        for pid in pids
        for version, cgroup in _memberships(proc, pid)
        for hierarchy in hierarchies
        if hierarchy.version == version
        for directory in _way_up(hierarchy, cgroup)
    )
    found = (_memory(version, directory) for version, directory in places)
    return [entry for entry in found if entry is not None]


def _hierarchies(proc: Path) -> Iterator[_Hierarchy]:
    """Yield the mounts that control memory: lines of ``mountinfo``, see proc_pid_mountinfo(5)."""
    for line in _text(proc / "self" / "mountinfo").splitlines():
        left, _, right = line.partition(" - ")
        mount, file_system = left.split(), right.split()
        root, place = PurePosixPath(mount[3]), Path(mount[4])
        match file_system:
            case ["cgroup2", *_]:
                yield _Hierarchy(2, root, place)
            case ["cgroup", _, options] if "memory" in options.split(","):
                yield _Hierarchy(1, root, place)


def _memberships(proc: Path, pid: int) -> Iterator[tuple[int, PurePosixPath]]:
    for line in _text(proc / str(pid) / "cgroup").splitlines():
        number, controllers, path = line.split(":", 2)
        if number == "0":
            yield 2, PurePosixPath(path)
        elif "memory" in controllers.split(","):
            yield 1, PurePosixPath(path)


def _way_up(hierarchy: _Hierarchy, cgroup: PurePosixPath) -> Iterator[Path]:
    """Yield the directories from a process's cgroup to the mount."""
    if cgroup.is_relative_to(hierarchy.root):
        cgroup = cgroup.relative_to(hierarchy.root)
    else:  # of another namespace: the mount itself is all that we see
        cgroup = PurePosixPath()
    own = hierarchy.mount / str(cgroup).lstrip("/")
    yield own
    for parent in own.parents:
        if not parent.is_relative_to(hierarchy.mount):
            return
        yield parent


def _memory(version: int, directory: Path) -> CgroupMemory | None:
    used, limit = (_number(directory / name) for name in _FILES[version])
    if used is None or limit is None or limit >= _MAX_FIELD:
        return None
    return CgroupMemory(
        used_bytes=max(used - _inactive(version, directory), 0),
        limit_bytes=limit,
        pressure_file=directory / "memory.pressure",
    )


def _inactive(version: int, directory: Path) -> int:
    for line in _text(directory / "memory.stat").splitlines():
        name, _, value = line.partition(" ")
        if name == _INACTIVE[version] and value.isdecimal():
            return int(value)
    return 0


def _number(path: Path) -> int | None:
    """Return the number in a file; None where it is missing or says ``max``."""
    text = _text(path).strip()
    return int(text) if text.isdecimal() else None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
