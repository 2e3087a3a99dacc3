"""All that the HTTP process knows of its node: the daemon, its runs, and runs that are over."""

import asyncio
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tracksided.sinks.json_file import plain
from tracksided.status_file import FILE_NAME, SILENT_S, read_status, seconds_silent
from tracksided.web.ending import RunEnding
from tracksided.web.fields import sendable
from tracksided.web.readings import Readings, RunReader
from tracksided.web.run_view import RunView
from tracksided.web.served import Served, ServedRun, WatchedCheckpoints, read_served

MAX_KNOWN = 100  # runs in the list, those that are over included
MAX_VIEWS = 48  # runs whose curves are held in memory: some 2 MB each
UNWATCHED_S = 30.0  # a run that nobody has asked for since gives its place to another
SILENCE_STEP_S = 10  # how exactly browsers are told for how long a daemon has been silent
LOOK_S = 2.0  # a look costs one stat() while nothing changes
ENDED = "ended"


@dataclass(frozen=True, slots=True)
class KnownRun:
    """A run in the list."""

    served: ServedRun
    """As it was seen last."""

    ending: RunEnding | None = None
    """Once the daemon is done with it."""


class Node:
    """Looks at the files of one node-local directory. Belongs to one event loop."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._status: Mapping[str, object] = {}
        self._version: tuple[int, int] | None = None
        self._known: dict[str, KnownRun] = {}
        self._readers: dict[str, RunReader] = {}
        self._views: dict[str, RunView] = {}
        self._overview: tuple[object, str] | None = None
        self.served: Served | None = None
        """What the daemon says; None where it says nothing."""

    def look(self) -> None:
        """Read ``status.json`` if it is another one now."""
        try:
            found = (self._directory / FILE_NAME).stat()
        except OSError:
            self._version, self.served, self._status = None, None, {}
            return
        version = (found.st_ino, found.st_mtime_ns)
        if version == self._version:
            return
        status = read_status(self._directory)
        self._version, self._status = version, status or {}
        self.served = None if status is None else read_served(status)
        if self.served is not None:
            self._remember(self.served)

    async def keep_looking(self) -> None:
        """Look now and then, for ever: a run that is over is on the page though nobody asked."""
        while True:
            self.look()
            await self.learn_endings()
            await asyncio.sleep(LOOK_S)

    async def learn_endings(self) -> None:
        """Find out how runs ended that the daemon is done with."""
        unread = [ending for ending in self._endings() if not ending.is_read]
        await asyncio.gather(*(ending.refresh() for ending in unread))

    @property
    def silent_s(self) -> float | None:
        """Seconds since the daemon's last sign of life, None where there was none."""
        return seconds_silent(self._status, wall=time.time(), monotonic=time.monotonic())

    @property
    def is_up(self) -> bool:
        """Whether the daemon has given a sign of life lately."""
        return self.silent_s is not None and self.silent_s < SILENT_S

    def view(self, key: str) -> RunView | None:
        """Return a run as it is watched; None where no such run is known, or too many are."""
        known, now = self._known.get(key), time.monotonic()
        if known is None:
            return None
        view = self._views.get(key)
        if view is None:
            if not self._make_room(now):
                return None
            view = self._views[key] = RunView(key, known.served.run, known.served.directory)
        view.last_asked = now
        return view

    def directory_of(self, key: str) -> Path | None:
        """Return where a run's outputs lie, None where no such run is known."""
        known = self._known.get(key)
        return None if known is None else known.served.directory

    async def readings(self, runs: tuple[ServedRun, ...]) -> Mapping[str, Readings]:
        """Read the newest numbers of these runs, all at once."""
        keys = {run.key for run in runs}
        self._readers = {key: reader for key, reader in self._readers.items() if key in keys}
        for run in runs:
            self._readers.setdefault(run.key, RunReader(run.run, run.directory))
        readers = dict(self._readers)
        found = await asyncio.gather(*(reader.readings() for reader in readers.values()))
        return dict(zip(readers, found, strict=True))

    def overview(self) -> str:
        """Return, as JSON, what the page shows of the daemon and all runs, the newest run first.

        It is made once for all browsers.
        """
        # By our own clock: that of a browser is another, and that of the machine may be set.
        silent_s = None if self.is_up or self.silent_s is None else self.silent_s
        rounded = None if silent_s is None else int(silent_s // SILENCE_STEP_S) * SILENCE_STEP_S
        num_read = sum(ending.is_read for ending in self._endings())
        moment = (self._version, self.is_up, rounded, num_read)
        if self._overview is None or self._overview[0] != moment:
            self._overview = (moment, json.dumps(plain(self._overview_document(rounded))))
        return self._overview[1]

    def _overview_document(self, silent_seconds: int | None) -> dict[str, Any]:
        served = self.served
        state = "serving" if self.is_up else "silent" if served is not None else "absent"
        return {
            "daemon": {
                "state": state,
                "host": os.uname().nodename,
                "pid": None if served is None else served.pid,
                "version": None if served is None else served.version,
                "silent_seconds": silent_seconds,
                "workers": 0 if served is None else served.num_workers,
                "worker_deaths": 0 if served is None else served.worker_deaths,
                "refused": [] if served is None else list(served.refused.values()),
            },
            "runs": [
                _run_overview(known, () if served is None else served.checkpoints)
                for known in reversed(self._known.values())
            ],
        }

    def _endings(self) -> Iterator[RunEnding]:
        return (known.ending for known in self._known.values() if known.ending is not None)

    def _make_room(self, now: float) -> bool:
        """Let go of runs that nobody watches, where too many are held; tell if there is room."""
        if len(self._views) >= MAX_VIEWS:
            watched = {
                key: view
                for key, view in self._views.items()
                if now - view.last_asked < UNWATCHED_S
            }
            self._views = watched
        return len(self._views) < MAX_VIEWS

    def _remember(self, served: Served) -> None:
        current = {run.key: run for run in served.runs}
        for key, known in self._known.items():
            if key not in current and known.ending is None:
                self._known[key] = KnownRun(known.served, RunEnding(known.served))
        for key, run in current.items():
            self._known[key] = KnownRun(run)
        over = [key for key, known in self._known.items() if known.ending is not None]
        for key in over[: max(0, len(self._known) - MAX_KNOWN)]:
            del self._known[key]
            self._views.pop(key, None)


def _run_overview(known: KnownRun, checkpoints: Sequence[WatchedCheckpoints]) -> dict[str, Any]:
    ending = known.ending
    run = known.served if ending is None else ending.run
    return {
        "key": run.key,
        "run": run.run,
        "directory": sendable(str(run.directory)),
        "state": run.state if ending is None else ending.state or ENDED,
        "over": ending is not None,
        "alive": run.is_alive,
        "world_size": run.world_size,
        "last_step": run.last_step,
        "committed_step": run.committed_step,
        "waiting": run.waiting,
        "late": run.late,
        "shed": run.shed,
        "failed": run.failed,
        "problem": run.problem,
        "active_alerts": run.active_alerts,
        "checkpoints": [
            {
                "directory": entry.directory,
                "missing": entry.missing,
                "kept": entry.kept,
                "refused": entry.refused,
            }
            for entry in checkpoints
            if entry.run == run.run
        ],
        "ranks": [
            {
                "rank": rank.rank,
                "pid": rank.pid,
                "alive": rank.is_alive,
                "last_step": rank.last_step,
                "lag_bytes": rank.lag_bytes,
                "drops": dict(rank.drops),
                "damaged": rank.damaged,
                "problem": rank.problem,
            }
            for rank in run.ranks
        ],
    }
