"""List the files and directories of a place that may be checkpoints."""

import fnmatch
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tracksided.checkpoints.formats.catalog import directory_format_of
from tracksided.checkpoints.formats.trainer_state import TRAINER_STATE, lacks_state
from tracksided.checkpoints.naming import is_checkpoint_directory
from tracksided.checkpoints.policy import Candidate
from tracksided.checkpoints.provenance import is_own_output
from tracksided.errors import CheckpointError

DIRECTORY_MARK = "/"  # at the end of a pattern: directories only


@dataclass(frozen=True, slots=True)
class _Found:
    candidate: Candidate
    names: frozenset[str] = frozenset()
    """Entries of a directory."""


def list_candidates(
    directory: Path, patterns: Sequence[str], outputs: Sequence[Path]
) -> tuple[Candidate, ...]:
    """List what matches a pattern and is not the work of averaging itself.

    A pattern that ends in a slash matches directories only. Directories count if they are
    named ``checkpoint-N``, or hold weights of a format that is read here.

    Args:
        directory: where to look, not below it.
        patterns: shell patterns of names.
        outputs: never candidates, nor are links to them.

    Raises:
        CheckpointError: the directory cannot be read.
    """
    try:
        with os.scandir(directory) as entries:
            names = [entry.name for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise CheckpointError(f"{directory}: cannot be read: {error.strerror}") from error
    taken = {output.name for output in outputs}
    inodes = {_inode(output) for output in outputs} - {None}
    found: list[_Found] = []
    for name in names:
        path = directory / name
        try:
            status = path.stat()
        except OSError:
            continue  # rotated away since it was listed
        is_output = name in taken or (status.st_dev, status.st_ino) in inodes
        if is_output or not _matches(path, patterns) or is_own_output(path):
            continue
        if path.is_dir():
            found += _directory(path, status.st_mtime_ns)
        else:
            found.append(_Found(Candidate(path, status.st_mtime_ns)))
    return _with_unfinished(found)


def _matches(path: Path, patterns: Sequence[str]) -> bool:
    is_directory = path.is_dir()
    return any(
        fnmatch.fnmatchcase(path.name, pattern.removesuffix(DIRECTORY_MARK))
        for pattern in patterns
        if is_directory or not pattern.endswith(DIRECTORY_MARK)
    )


def _directory(path: Path, mtime_ns: int) -> list[_Found]:
    try:
        names = frozenset(os.listdir(path))  # noqa: PTH208 - names only
    except OSError:
        names = frozenset()  # not readable or gone: opening it says so
    if not is_checkpoint_directory(path.name) and directory_format_of(names) is None:
        return []
    candidate = Candidate(path, mtime_ns, is_directory=True)
    return [_Found(candidate, names)]


def _with_unfinished(found: Sequence[_Found]) -> tuple[Candidate, ...]:
    """Mark the directories that the Trainer has not finished.

    It writes its state last. Where one directory has it, all others will get it, too.
    """
    has_trainer = any(TRAINER_STATE in entry.names for entry in found)
    reason = f"not complete: no {TRAINER_STATE}, which the Trainer writes last"
    return tuple(
        replace(entry.candidate, unfinished=reason)
        if entry.candidate.is_directory
        and lacks_state(entry.candidate.path.name, entry.names, has_trainer=has_trainer)
        else entry.candidate
        for entry in found
    )


def _inode(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
