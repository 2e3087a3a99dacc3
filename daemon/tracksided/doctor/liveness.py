"""Checks of the daemon: does it run, does it speak, what does it refuse?"""

from collections.abc import Iterator

from trackside.wire.layout import OTHER_VERSION
from trackside.wire.locks import name_holder
from tracksided.doctor.facts import DaemonFacts, Facts
from tracksided.doctor.finding import Finding, counted, fail, ok, warn
from tracksided.status_file import SILENT_S

ITSELF = "trackside"


def check_daemon(facts: Facts) -> Iterator[Finding]:
    """Does a daemon serve this user, and does it move?"""
    check, daemon = "daemon", facts.daemon
    if daemon is None:
        if facts.num_segments:
            yield warn(
                check,
                f"none runs; {counted(facts.num_segments, 'segment')} left in {facts.node.path}",
                "start one: trackside daemon, or trackside service install",
            )
        else:
            yield ok(check, "none runs; `attach` starts one, or: trackside daemon")
        return
    name = name_holder(daemon.pid)
    if daemon.silent_s is None:
        yield ok(check, f"{name} is starting")
    elif daemon.silent_s > SILENT_S:
        yield fail(
            check,
            f"{name} gave its last sign of life {daemon.silent_s:.0f} s ago: stopped, starved, "
            "or shared memory is full",
            f"kill -CONT {daemon.pid}; else {_restart(daemon, 'kill -9')}: nothing is lost"
            if daemon.pid
            else "end its container and start another daemon: nothing is lost",
        )
    else:
        yield ok(check, f"{name} serves {facts.node.path}")
    own = facts.versions.get(ITSELF)
    if daemon.version is not None and own is not None and daemon.version != own:
        yield warn(
            check,
            f"{name} is version {daemon.version}, installed is {own}",
            f"restart it: {_restart(daemon, 'kill')}"
            if daemon.pid
            else "bring both sides to one version",
        )


def _restart(daemon: DaemonFacts, end: str) -> str:
    return daemon.restart or f"{end} {daemon.pid} and start another"


def check_segments(facts: Facts) -> Iterator[Finding]:
    """Is everything in the directory read?"""
    check, daemon = "segments", facts.daemon
    if daemon is None:
        return
    for reason in daemon.refused.values():
        mend = f"if nothing needs it, remove it from {facts.node.path}"
        if OTHER_VERSION in reason:
            mend = "upgrade the older of trainer and daemon; what is published waits until then"
        yield warn(check, reason, mend)
    for problem in daemon.problems:
        yield warn(check, problem, "restart the training to record it again")
    if not daemon.refused and not daemon.problems:
        yield ok(check, f"{facts.num_segments} in use, none refused")
