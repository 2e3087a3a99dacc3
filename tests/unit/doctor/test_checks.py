"""Checks over made-up facts: what is said, and which mend is named."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tracksided.doctor.checks import examine
from tracksided.doctor.facts import (
    AverageFacts,
    DaemonFacts,
    DirectoryFacts,
    Facts,
    HttpFacts,
    OutputFacts,
    RunFacts,
    SpaceFacts,
)
from tracksided.doctor.finding import Finding, Level

NODE = Path("/dev/shm/trackside-1000")  # noqa: S108 - a name in facts
ROOM = SpaceFacts(kind="tmpfs", total_bytes=8 << 30, free_bytes=8 << 30)
DISK = SpaceFacts(kind="ext4", total_bytes=1 << 40, free_bytes=1 << 39)
OUTPUT = OutputFacts(
    path=Path("/data/out"), in_the_way=None, is_writable=True, space=DISK, problem=None
)
DAEMON = DaemonFacts(
    pid=42,
    restart=None,
    version="1.0",
    silent_s=2.0,
    refused={},
    problems=(),
    runs=(),
    averages=(),
)
AVERAGE = AverageFacts(
    directory=Path("/data/checkpoints"),
    error=None,
    missing=0,
    kept=None,
    refused=(),
    polled_because=None,
)
RUN = RunFacts(name="gpt", drops={}, num_shed=0, num_failed=0, defect=None)
HEALTHY = Facts(
    uid=1000,
    user="ada",
    node=DirectoryFacts(
        path=NODE, exists=True, is_directory=True, owner=1000, mode=0o700, can_be_made=True
    ),
    socket_path=NODE / "daemon.sock",
    space=ROOM,
    num_segments=2,
    daemon=DAEMON,
    has_logind=True,
    removes_ipc=True,
    lingers=True,
    has_gpu=True,
    num_gpus=8,
    nvml_error=None,
    soft_open_files=1024,
    hard_open_files=1 << 20,
    python=(3, 11, 7),
    versions={
        "trackside": "1.0",
        "torch": "2.13.0+cpu",
        "numpy": "2.0",
        "pyzmq": "27",
        "msgpack": "1",
    },
    outputs=(OUTPUT,),
    http=None,
    settings_error=None,
)


def bad(facts: Facts) -> list[Finding]:
    return [finding for finding in examine(facts) if finding.level is not Level.OK]


def test_a_healthy_machine_has_nothing_to_mend() -> None:
    findings = examine(HEALTHY)

    assert {finding.level for finding in findings} == {Level.OK}
    assert all(finding.mend is None for finding in findings)
    assert len({finding.check for finding in findings}) == 13


@pytest.mark.parametrize("has_daemon", [True, False])
def test_a_page_that_answers_or_could_is_well(*, has_daemon: bool) -> None:
    well = page(taken=has_daemon, ours=has_daemon)
    absent = {} if has_daemon else {"daemon": None, "num_segments": 0}

    assert bad(replace(HEALTHY, **well, **absent)) == []


def node(**changes: Any) -> dict[str, Any]:
    return {"node": replace(HEALTHY.node, **changes)}


def space(**changes: Any) -> dict[str, Any]:
    return {"space": replace(ROOM, **changes)}


def daemon(**changes: Any) -> dict[str, Any]:
    return {"daemon": replace(DAEMON, **changes)}


def run(**changes: Any) -> dict[str, Any]:
    return daemon(runs=(replace(RUN, **changes),))


def average(**changes: Any) -> dict[str, Any]:
    return daemon(averages=(replace(AVERAGE, **changes),))


def output(**changes: Any) -> dict[str, Any]:
    return {"outputs": (replace(OUTPUT, **changes),)}


def page(*, taken: bool, ours: bool, problem: str | None = None, **changes: Any) -> dict[str, Any]:
    facts = HttpFacts(url="http://127.0.0.1:9470/", is_taken=taken, is_ours=ours, problem=problem)
    return {"http": facts, **changes}


FAIL, WARN = Level.FAIL, Level.WARN
ILL: dict[str, tuple[dict[str, Any], str, Level, str]] = {
    "bad settings": ({"settings_error": "unknown key"}, "settings", FAIL, "correct that line"),
    "a silent page": (page(taken=False, ours=False), "http", FAIL, "log"),
    "a page whose port is taken": (page(taken=True, ours=False), "http", FAIL, "another port"),
    "a page that cannot be served": (
        page(taken=False, ours=False, problem="not allowed here"),
        "http",
        FAIL,
        "service install",
    ),
    "a port that will be taken": (
        page(taken=True, ours=False, daemon=None, num_segments=0),
        "http",
        WARN,
        "another port",
    ),
    "docker's small shm": (space(free_bytes=63 << 20), "shared memory", FAIL, "--shm-size"),
    "too small for 8 ranks": (space(free_bytes=300 << 20), "shared memory", WARN, "ring_bytes"),
    "rings on a disk": (space(kind="ext4"), "shared memory", WARN, "tmpfs"),
    "no file system": ({"space": None}, "shared memory", FAIL, "TRACKSIDE_SHM_DIR"),
    "a link": (node(is_directory=False), "node directory", FAIL, "remove it"),
    "another's": (node(owner=0), "node directory", FAIL, "TRACKSIDE_SHM_DIR"),
    "open to others": (node(mode=0o755), "node directory", FAIL, "chmod 700"),
    "no place for it": (node(exists=False, can_be_made=False), "node directory", FAIL, "parent"),
    "long path": (
        {"socket_path": Path("/" + "d" * 97) / "daemon.sock"},
        "socket path",
        FAIL,
        "shorter",
    ),
    "stopped daemon": (daemon(silent_s=31.0), "daemon", FAIL, "kill -CONT 42"),
    "old daemon": (daemon(version="0.9"), "daemon", WARN, "restart it: kill 42"),
    "an old service": (
        daemon(version="0.9", restart="systemctl --user restart x"),
        "daemon",
        WARN,
        "restart it: systemctl --user restart x",
    ),
    "a stopped service": (
        daemon(silent_s=31.0, restart="systemctl --user restart x"),
        "daemon",
        FAIL,
        "kill -CONT 42; else systemctl --user restart x",
    ),
    "no daemon, work waits": (
        {"daemon": None, "num_segments": 3},
        "daemon",
        WARN,
        "trackside daemon",
    ),
    "stopped in a container": (daemon(pid=0, silent_s=31.0), "daemon", FAIL, "end its container"),
    "old in a container": (daemon(pid=0, version="0.9"), "daemon", WARN, "one version"),
    "full rings": (run(drops={"ring_full": 3}), "runs", WARN, "ring_bytes="),
    "records too large": (run(drops={"too_large": 3}), "runs", WARN, "step_bytes="),
    "late copies": (run(drops={"copy_late": 3}), "runs", WARN, "every="),
    "floods of values": (run(drops={"log_full": 3}), "runs", WARN, "lower every="),
    "broken hooks": (run(drops={"error": 3}), "runs", WARN, "report it"),
    "overload": (run(num_shed=7), "runs", WARN, "raise every="),
    "failed steps": (run(num_failed=7), "runs", WARN, "log"),
    "broken run": (run(defect="ZeroDivisionError"), "runs", FAIL, "restart the daemon"),
    "averages that fail": (average(error="no room"), "averages", FAIL, "mended"),
    "a newest checkpoint of another model": (
        average(missing=2, refused=(("step_1.pt", "keys differ from step_2.pt"),)),
        "averages",
        WARN,
        "2 more checkpoints like the newest",
    ),
    "too few that are kept": (
        average(missing=1, kept=2),
        "averages",
        WARN,
        "2 checkpoints kept, 3 are needed",
    ),
    "a damaged checkpoint": (
        average(refused=(("step_1.pt", "ends at byte 7"),)),
        "averages",
        WARN,
        "save it again",
    ),
    "no inotify watches": (
        average(polled_because="no inotify watches are left"),
        "averages",
        WARN,
        "the next poll finds out",
    ),
    "refused segment": (daemon(refused={"x": "bad magic"}), "segments", WARN, "remove it"),
    "lost rank": (daemon(problems=("was removed",)), "segments", WARN, "restart the training"),
    "logout deletes": ({"lingers": False}, "logout", WARN, "loginctl enable-linger ada"),
    "read-only outputs": (output(is_writable=False), "outputs", FAIL, "permissions"),
    "file in place of outputs": (
        output(is_writable=False, in_the_way=Path("/data")),
        "outputs",
        FAIL,
        "move it away",
    ),
    "full disk": (output(space=replace(DISK, free_bytes=1 << 20)), "outputs", FAIL, "free some"),
    "filling disk": (
        output(space=replace(DISK, free_bytes=500 << 20)),
        "outputs",
        WARN,
        "free some",
    ),
    "outputs that fail": (output(problem="cannot write"), "outputs", FAIL, "goes on by itself"),
    "silent NVML": ({"num_gpus": None, "nvml_error": "no library"}, "NVML", WARN, "libnvidia-ml"),
    "few files": ({"soft_open_files": 64}, "open files", WARN, "ulimit -n"),
    "few files for ever": ({"hard_open_files": 64}, "open files", FAIL, "limits.conf"),
    "old python": ({"python": (3, 10, 1)}, "versions", FAIL, "3.11"),
    "old torch": (
        {"versions": {**HEALTHY.versions, "torch": "2.5.1"}},
        "versions",
        WARN,
        "upgrade it",
    ),
    "no msgpack": (
        {"versions": {**HEALTHY.versions, "msgpack": None}},
        "versions",
        FAIL,
        "pip install msgpack",
    ),
}


@pytest.mark.parametrize("name", ILL)
def test_an_illness_is_named_with_its_mend(name: str) -> None:
    changes, check, level, mend = ILL[name]

    (finding,) = bad(replace(HEALTHY, **changes))

    assert (finding.check, finding.level) == (check, level)
    assert finding.mend is not None
    assert mend in finding.mend


WELL: dict[str, dict[str, Any]] = {
    "no logind": {"has_logind": False, "lingers": False},
    "watched checkpoints": average(),
    "system user": {
        "uid": 999,
        "lingers": False,
        "node": replace(HEALTHY.node, owner=999),
    },
    "RemoveIPC=no": {"removes_ipc": False, "lingers": False},
    "no daemon, no work": {"daemon": None, "num_segments": 0},
    "daemon that starts": daemon(silent_s=None, version=None),
    "no GPU": {"has_gpu": False, "num_gpus": None, "nvml_error": "no library"},
    "nothing there yet": node(
        can_be_made=True, exists=False, is_directory=False, owner=None, mode=None
    ),
    "daemon's machine without torch": {"versions": {**HEALTHY.versions, "torch": None}},
}


@pytest.mark.parametrize("name", WELL)
def test_what_looks_strange_and_is_well(name: str) -> None:
    assert bad(replace(HEALTHY, **WELL[name])) == []
