"""Journeys of newcomers: what `tests/newcomer/run.py` keeps of one, in the form of a benchmark."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from machine import load_average, machine
from tables import Column, Table, markdown

SUITES = {"bookworm": "Debian 12", "trixie": "Debian 13"}
STEP, SECONDS = "step", "seconds"
TORCH = "torch"
MAP = "clone to map, without torch"
STEPS = f"{STEP}s"  # the name of the table


def name_of(suite: str) -> str:
    """Return under which name its results are stored."""
    return f"newcomer_{suite}"


NAMES = tuple(map(name_of, SUITES))


def document(
    settings: Mapping[str, str],
    seconds: Mapping[str, float],
    versions: Mapping[str, str],
    *,
    start: datetime,
    end: datetime,
    load_before: Sequence[float],
) -> dict[str, Any]:
    """Return all that is kept of one; ``settings`` holds its suite and all else that it had."""
    columns = (Column(STEP, "step"), Column(SECONDS, "seconds", 0))
    rows = [{STEP: name, SECONDS: round(value, 1)} for name, value in seconds.items()]
    return {
        "benchmark": name_of(settings["suite"]),
        "date": start.strftime("%Y-%m-%d %H:%M UTC"),
        "seconds": round((end - start).total_seconds()),
        "is_quick": False,
        "machine": machine(),
        "load_average": {"before": list(load_before), "after": load_average()},
        "versions": dict(versions),
        "settings": dict(settings),
        "tables": {STEPS: asdict(Table(columns, rows))},
        "limits": [],
    }


def side_by_side(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Tabulate the steps of all journeys that are stored."""
    journeys = dict(stored_of(results))
    steps = dict.fromkeys(step for found in journeys.values() for step in seconds_of(found))
    columns = [asdict(Column(STEP, "step, seconds"))]
    columns += [asdict(Column(suite, titled(suite, of), 0)) for suite, of in journeys.items()]
    rows = [
        {STEP: step} | {suite: seconds_of(found).get(step) for suite, found in journeys.items()}
        for step in steps
    ]
    return markdown({"columns": columns, "rows": rows})


def seconds_to_a_map(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Say how long each journey took from the clone to an attention map, PyTorch apart."""
    return ", ".join(
        f"{seconds_of(found)[MAP]:.0f} seconds on {SUITES[suite]}"
        for suite, found in stored_of(results)
    )


def stored_of(
    results: Mapping[str, Mapping[str, Any]],
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    return ((suite, results[name_of(suite)]) for suite in SUITES if name_of(suite) in results)


def seconds_of(found: Mapping[str, Any]) -> dict[str, float]:
    return {row[STEP]: row[SECONDS] for row in found["tables"][STEPS]["rows"]}


def titled(suite: str, found: Mapping[str, Any]) -> str:
    known = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    return f"{SUITES[suite]}, {known}"
