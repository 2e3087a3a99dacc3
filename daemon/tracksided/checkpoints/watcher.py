"""Notice, by cheap stats only, when a directory's checkpoints have changed and settled."""

import os
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TypeAlias

from tracksided.checkpoints.formats.catalog import FILE_FORMATS
from tracksided.checkpoints.job import DEFAULT_OUTPUT

Signature: TypeAlias = frozenset[tuple[str, int, int, int]]
"""(name, inode, bytes, mtime_ns) of every checkpoint file."""

_OWN_STEM = PurePath(DEFAULT_OUTPUT).stem
_SUFFIXES = tuple(suffix for entry in FILE_FORMATS for suffix in entry.suffixes)


@dataclass(frozen=True, slots=True)
class Look:
    """What a directory holds at one moment."""

    signature: Signature

    @property
    def patterns(self) -> tuple[str, ...]:
        """One pattern per suffix, that of the file written last first."""
        latest: dict[str, int] = {}
        for name, _, _, mtime_ns in self.signature:
            suffix = PurePath(name).suffix
            latest[suffix] = max(latest.get(suffix, 0), mtime_ns)
        return tuple(
            f"*{suffix}" for suffix in sorted(latest, key=latest.__getitem__, reverse=True)
        )

    @property
    def most_of_one_kind(self) -> int:
        """Number of files of the most frequent suffix."""
        counts: dict[str, int] = defaultdict(int)
        for name, _, _, _ in self.signature:
            counts[PurePath(name).suffix] += 1
        return max(counts.values(), default=0)


def look(directory: Path) -> Look:
    """Stat the checkpoint files of a directory; one that is missing holds none."""
    found: set[tuple[str, int, int, int]] = set()
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                if not _is_checkpoint_name(entry.name):
                    continue
                try:
                    status = entry.stat()
                except OSError:
                    continue  # rotated away since it was listed
                found.add((entry.name, status.st_ino, status.st_size, status.st_mtime_ns))
    except OSError:
        return Look(frozenset())  # not there yet, or gone with its run
    return Look(frozenset(found))


def _is_checkpoint_name(name: str) -> bool:
    path = PurePath(name)
    return path.suffix in _SUFFIXES and path.stem != _OWN_STEM and not name.startswith(".")


class Settling:
    """Decides when a directory is worth an averaging: changed, and still for one interval."""

    def __init__(self) -> None:
        self._previous: Look | None = None
        self._handled: Look | None = None

    def observe(self, seen: Look, *, is_urgent: bool) -> bool:
        """Take in one look; return whether there is something new that has settled.

        Args:
            seen: the newest look.
            is_urgent: do not wait for it to settle.
        """
        is_settled = is_urgent or seen == self._previous
        self._previous = seen
        return is_settled and seen != self._handled

    def handled(self, seen: Look) -> None:
        """Remember what an averaging was started for."""
        self._handled = seen

    def forget(self) -> None:
        """Make the next settled look count as new."""
        self._handled = None
