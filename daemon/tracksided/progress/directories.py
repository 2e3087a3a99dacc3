"""Looks into directories that others write and rotate meanwhile, and close.

What has gone is not there, nor is what lies where we may not look; `Path.is_file` and
`Path.is_dir` raise there.
"""

import os
from collections.abc import Mapping
from pathlib import Path

from tracksided.checkpoints.naming import is_checkpoint_directory, step_in_directory_name


def is_file(path: Path) -> bool:
    """Whether a file is there for us."""
    return os.path.isfile(path)  # noqa: PTH113 - see above


def is_directory(path: Path) -> bool:
    """Whether a directory is there for us."""
    return os.path.isdir(path)  # noqa: PTH112 - see above


def directories_in(directory: Path) -> tuple[Path, ...]:
    """List the directories in a directory by name, hidden ones left out."""
    try:
        with os.scandir(directory) as entries:
            names = [e.name for e in entries if e.is_dir() and not e.name.startswith(".")]
    except OSError:
        return ()  # not there, or not ours to read
    return tuple(directory / name for name in sorted(names))


def checkpoints_in(directory: Path) -> Mapping[int, Path]:
    """Return the ``checkpoint-N`` in a directory by N, ascending; by number, not by text."""
    found: dict[int, Path] = {}
    for path in directories_in(directory):
        step = step_in_directory_name(path.name) if is_checkpoint_directory(path.name) else None
        if step is not None:
            found[step] = path
    return dict(sorted(found.items()))


def written_at(path: Path) -> float | None:
    """Return when a file was written last, in Unix seconds; None where it is not there."""
    try:
        return path.stat().st_mtime
    except OSError:
        return None
