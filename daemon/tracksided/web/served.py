"""What the daemon says of itself in ``status.json``, as typed values."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tracksided.web.fields import count, counts, number, objects, sendable, text

MAX_ACTIVE = 100  # alerts of one run
KEY_LETTERS = 12  # 48 bits: enough to tell the runs of a node apart


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedRank:
    """One rank of a run."""

    rank: int
    pid: int
    is_alive: bool
    last_step: int
    lag_bytes: int
    drops: Mapping[str, int]
    """Cause to number of samples."""

    damaged: int
    """Records that were corrupt or torn."""

    problem: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedRun:
    """One run that the daemon serves now."""

    run: str
    directory: Path
    state: str
    world_size: int
    last_step: int
    """Newest step that a rank has published."""

    committed_step: int
    """Newest step that is on disk."""

    waiting: int
    late: int
    shed: int
    failed: int
    problem: str | None
    active_alerts: tuple[str, ...]
    """Ids of alerts whose cause is still there, or was a moment ago."""

    ranks: tuple[ServedRank, ...]

    @property
    def key(self) -> str:
        """Name of the run in addresses of the page: letters and digits, whatever the run's name."""
        return run_key(self.run, self.directory)

    @property
    def is_alive(self) -> bool:
        """Whether any of its trainers runs."""
        return any(rank.is_alive for rank in self.ranks)


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchedCheckpoints:
    """A directory that the daemon averages."""

    run: str | None
    directory: str
    missing: int
    """Usable checkpoints that the next average waits for."""

    kept: int | None
    """What the training's rotation leaves, where that is not enough."""

    refused: tuple[tuple[str, str], ...]
    """Names of checkpoints that are not averaged, and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """The whole of ``status.json``."""

    pid: int
    version: str
    started_at: float
    updated_at: float
    num_workers: int
    worker_deaths: int
    averages: Mapping[str, int]
    """``published`` and ``failed`` since the daemon's start."""

    refused: Mapping[str, str]
    runs: tuple[ServedRun, ...]
    """In the order in which they began."""

    checkpoints: tuple[WatchedCheckpoints, ...]
    """Directories that are averaged."""


def run_key(run: str, directory: Path) -> str:
    """Return the short name of a run in addresses."""
    return hashlib.sha256(f"{run}\0{directory}".encode("utf-8", "surrogateescape")).hexdigest()[
        :KEY_LETTERS
    ]


def read_served(status: Mapping[str, Any]) -> Served:
    """Read a status; what is missing counts as none."""
    workers, checkpoints = status.get("workers"), status.get("checkpoints")
    workers = workers if isinstance(workers, dict) else {}
    checkpoints = checkpoints if isinstance(checkpoints, dict) else {}
    pids, refused = workers.get("pids"), status.get("refused")
    return Served(
        pid=count(status, "pid"),
        version=text(status, "version") or "unknown",
        started_at=number(status, "started_at") or 0.0,
        updated_at=number(status, "updated_at") or 0.0,
        num_workers=len(pids) if isinstance(pids, list) else 0,
        worker_deaths=count(workers, "deaths"),
        averages=counts(status, "averages"),
        refused={sendable(str(name)): sendable(str(reason)) for name, reason in refused.items()}
        if isinstance(refused, dict)
        else {},
        runs=tuple(_run(entry) for entry in objects(status, "runs")),
        checkpoints=tuple(_watched(entry) for entry in objects(checkpoints, "directories")),
    )


def _run(entry: Mapping[str, Any]) -> ServedRun:
    return ServedRun(
        run=text(entry, "run") or "unnamed",
        directory=_directory(entry),
        state=text(entry, "state") or "unknown",
        world_size=count(entry, "world_size"),
        last_step=count(entry, "last_step"),
        committed_step=count(entry, "committed_step"),
        waiting=count(entry, "waiting"),
        late=count(entry, "late"),
        shed=count(entry, "shed"),
        failed=count(entry, "failed"),
        problem=text(entry, "problem"),
        active_alerts=tuple(text(alert, "id") or "unnamed" for alert in objects(entry, "alerts"))[
            :MAX_ACTIVE
        ],
        ranks=tuple(_rank(rank) for rank in objects(entry, "ranks")),
    )


def _watched(entry: Mapping[str, Any]) -> WatchedCheckpoints:
    return WatchedCheckpoints(
        run=text(entry, "run"),
        directory=text(entry, "directory") or "unnamed",
        missing=count(entry, "missing"),
        kept=count(entry, "kept") or None,
        refused=tuple(
            (text(refused, "name") or "unnamed", text(refused, "reason") or "unknown")
            for refused in objects(entry, "refused")
        ),
    )


def _directory(entry: Mapping[str, Any]) -> Path:
    # As it is: a name of bytes that are no UTF-8 shall still be found.
    directory = entry.get("directory")
    return Path(directory if isinstance(directory, str) else "/nonexistent")


def _rank(entry: Mapping[str, Any]) -> ServedRank:
    return ServedRank(
        rank=count(entry, "rank"),
        pid=count(entry, "pid"),
        is_alive=entry.get("alive") is True,
        last_step=count(entry, "last_step"),
        lag_bytes=count(entry, "lag_bytes"),
        drops=counts(entry, "drops"),
        damaged=count(entry, "corrupt") + count(entry, "torn"),
        problem=text(entry, "problem"),
    )
