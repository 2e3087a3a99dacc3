"""The averaging process: ``python -m tracksided.checkpoints.child``.

Reads one JSON request from standard input. Writes JSON lines to standard output:
``{"progress": [done, total]}`` as a sign of life, then one result with ``status``
``averaged``, ``unchanged``, ``waiting`` (too few checkpoints yet) or ``failed``; with ``may_heal``
if the same may succeed later. ``skipped`` are
checkpoints with which something is wrong, each with the reason.
"""

import datetime as dt
import json
import os
import signal
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from tracksided.checkpoints.ending import signals_as_exits
from tracksided.checkpoints.job import (
    AverageRequest,
    TooFewCheckpoints,
    Unchanged,
    output_place,
    run_average,
)
from tracksided.checkpoints.placement import HERE
from tracksided.checkpoints.provenance import SOURCES_IN, Skipped
from tracksided.descriptors import allow_many_files
from tracksided.errors import OutputError, TracksidedError
from tracksided.printable import printable
from tracksided.priority import become_idle, die_with, leave_terminal_to_parent

SIGN_OF_LIFE_S = 0.5  # often enough for a progress display, rare enough to cost nothing


def main() -> int:
    """Serve one request and return the exit code."""
    os.chdir("/")  # nobody's directory is kept in use
    leave_terminal_to_parent()
    with signals_as_exits(signal.SIGTERM):
        return _serve()


def _serve() -> int:
    fields = json.load(sys.stdin)
    become_idle()
    allow_many_files()
    die_with(fields["parent"])
    request = AverageRequest(
        directory=Path(fields["directory"]),
        count=fields["last"],
        minimum=fields["min_checkpoints"],
        num_threads=fields["num_threads"],
        keep_current=True,
        unsettled=frozenset(fields["unsettled"]),
    )
    try:
        result = _average_any(request, fields["patterns"])
    except TracksidedError as error:
        result = {
            "status": "failed",
            "error": printable(str(error)),
            "may_heal": _may_heal(error),
        }
    _say(result)
    return 0


def _may_heal(error: TracksidedError) -> bool:
    """Whether it is the system that refuses: a full disk gets room, files stay as they are."""
    return isinstance(error, OutputError) or isinstance(error.__cause__, OSError)


def _average_any(request: AverageRequest, patterns: list[str]) -> dict[str, object]:
    """Average the files of the first pattern that has enough of them."""
    progress = _SignsOfLife()
    waiting: dict[str, object] = {"status": "waiting", "usable": 0, "needed": 0, "skipped": []}
    for pattern in patterns:
        try:
            provenance = run_average(replace(request, patterns=(pattern,)), progress)
        except TooFewCheckpoints as error:
            if not waiting["skipped"]:  # else those that were written last, which come first
                waiting = {
                    "status": "waiting",
                    "usable": error.found,
                    "needed": error.needed,
                    "skipped": _refusals(error.skipped),
                    "may_heal": any(entry.may_heal for entry in error.skipped),
                }
            continue
        if isinstance(provenance, Unchanged):
            status, found = "unchanged", provenance.provenance
        else:
            status, found = "averaged", provenance.to_json()
        made = _made(request, found)
        return {"status": status, "made": made, "skipped": _refusals(provenance.skipped)}
    return waiting


def _made(request: AverageRequest, provenance: Mapping[str, object]) -> dict[str, object] | None:
    """Return what the daemon tells of an average; None where a JSON file says it no more."""
    sources_in = str(provenance.get(SOURCES_IN, HERE))
    match provenance:
        case {
            "output": str(output),
            "step": int() | None as step,
            "seconds": int() | float() as seconds,
            "created": str(created),
            "sources": list() | tuple() as sources,
        }:
            try:
                moment = dt.datetime.fromisoformat(created)
            except ValueError:
                return None  # edited by hand
            return {
                "output": output_place(request, output, sources_in),
                "step": step,
                "seconds": seconds,
                "created": moment.timestamp(),
                "sources": [printable(str(source["name"])) for source in sources],
            }
    return None


def _refusals(skipped: Iterable[Skipped]) -> list[list[str]]:
    """Return names and reasons of those with which something is wrong, fit for a terminal."""
    return [
        [printable(entry.name), printable(entry.reason)] for entry in skipped if not entry.is_copy
    ]


class _SignsOfLife:
    """Reports progress, but not at every chunk."""

    def __init__(self) -> None:
        self._next = 0.0

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now >= self._next:
            self._next = now + SIGN_OF_LIFE_S
            _say({"progress": [done, total]})


def _say(message: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
