"""What an averaging process found, as the daemon tells it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class AverageEvent:
    """One averaging that ended: published, or failed with ``error``."""

    directory: Path
    run: str | None
    output: Path
    step: int | None
    """Of the newest source."""

    sources: tuple[str, ...]
    """File names, from oldest to newest."""

    seconds: float
    error: str | None
    created: float = 0.0
    """When it was published, Unix seconds; 0 where it failed."""

    is_found: bool = False
    """Not made now: it was there when this service looked for the first time."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the last averaging of a directory found."""

    status: str | None = None
    """As the child names it; None before the first one."""

    missing: int = 0
    """Usable checkpoints that it waits for."""

    refused: tuple[tuple[str, str], ...] = ()
    """Names of checkpoints that cannot be used, and why, the newest first."""


def event_of(made: Mapping[str, Any], directory: Path, run: str | None) -> AverageEvent:
    """Return the event of an average that a child has made, or found.

    Args:
        made: as the child says it.
        directory: that it was made in.
        run: that announced the directory.
    """
    return AverageEvent(
        directory=directory,
        run=run,
        output=Path(made["output"]),
        step=made["step"],
        sources=tuple(made["sources"]),
        seconds=made["seconds"],
        error=None,
        created=made["created"],
    )


def outcome_of(message: Mapping[str, object]) -> Outcome:
    """Return what the last message of a child says."""
    missing = 0
    match message:
        case {"status": "waiting", "usable": int(usable), "needed": int(needed)}:
            missing = needed - usable
    refused: list[tuple[str, str]] = []
    skipped = message.get("skipped")
    for entry in skipped if isinstance(skipped, list) else ():
        match entry:
            case [str(name), str(reason)]:
                refused.append((name, reason))
            case _:
                continue
    return Outcome(str(message["status"]), missing, tuple(refused))
