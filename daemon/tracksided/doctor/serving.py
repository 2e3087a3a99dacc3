"""What the daemon says of itself in ``status.json``, as facts."""

import time
from collections.abc import Mapping
from pathlib import Path

from tracksided.doctor.facts import AverageFacts, DaemonFacts, RunFacts
from tracksided.sinks.json_file import Json
from tracksided.status_file import seconds_silent

BROKEN = "broken"  # `tracksided.runs.State`


def daemon_facts(pid: int, restart: str | None, status: Mapping[str, Json] | None) -> DaemonFacts:
    """Read the daemon's own words.

    Args:
        pid: who holds the lock; 0 in another PID namespace.
        restart: command that restarts its service; None where it is none.
        status: what it wrote last; None where it has not yet.
    """
    content: Mapping[str, Json] = status or {}
    refused, runs = content.get("refused"), objects(status, "runs")
    ranks = [rank for run in runs for rank in objects(run, "ranks")]
    problems = [text(rank.get("problem")) for rank in ranks]
    return DaemonFacts(
        pid=pid,
        restart=restart,
        version=text(content.get("version")),
        silent_s=seconds_silent(content, wall=time.time(), monotonic=time.monotonic()),
        refused={name: str(reason) for name, reason in refused.items()}
        if isinstance(refused, dict)
        else {},
        problems=tuple(problem for problem in problems if problem is not None),
        runs=tuple(_run(run) for run in runs),
        averages=tuple(_average(entry) for entry in objects(_checkpoints(content), "directories")),
    )


def objects(document: Mapping[str, Json] | None, key: str) -> list[Mapping[str, Json]]:
    """Return the objects of a list in a document, none where it is something else."""
    found = (document or {}).get(key)
    return [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []


def text(value: Json) -> str | None:
    """Return a string, None where it is something else."""
    return value if isinstance(value, str) else None


def output_problem(run: Mapping[str, Json]) -> str | None:
    """Return why a run's outputs cannot be written now; a broken run has other worries."""
    return None if run.get("state") == BROKEN else text(run.get("problem"))


def _run(run: Mapping[str, Json]) -> RunFacts:
    drops: dict[str, int] = {}
    for rank in objects(run, "ranks"):
        found = rank.get("drops")
        for cause, count in found.items() if isinstance(found, dict) else ():
            drops[cause] = drops.get(cause, 0) + _count(count)
    return RunFacts(
        name=str(run.get("run")),
        drops=drops,
        num_shed=_count(run.get("shed")),
        num_failed=_count(run.get("failed")),
        defect=text(run.get("problem")) if run.get("state") == BROKEN else None,
    )


def _checkpoints(content: Mapping[str, Json]) -> Mapping[str, Json]:
    found = content.get("checkpoints")
    return found if isinstance(found, dict) else {}


def _average(entry: Mapping[str, Json]) -> AverageFacts:
    last = entry.get("last")
    return AverageFacts(
        directory=Path(str(entry.get("directory"))),
        error=text(last.get("error")) if isinstance(last, dict) else None,
        missing=_count(entry.get("missing")),
        kept=None if entry.get("kept") is None else _count(entry.get("kept")),
        refused=tuple(
            (str(refused.get("name")), str(refused.get("reason")))
            for refused in objects(entry, "refused")
        ),
        polled_because=text(entry.get("polled_because")),
    )


def _count(value: Json) -> int:
    return value if isinstance(value, int) else 0
