"""Look at the checkpoints of a directory, by cheap stats only."""

import itertools
import os
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from tracksided.checkpoints.formats.catalog import directory_format_of, format_of, suffix_of
from tracksided.checkpoints.formats.distributed_metadata import (
    LIGHTNING_STATE,
    METADATA,
    lacks_lightning_state,
)
from tracksided.checkpoints.formats.nested import ACCELERATE_STATE, MAX_DIRECTORIES
from tracksided.checkpoints.formats.trainer_state import TRAINER_STATE, lacks_state
from tracksided.checkpoints.formats.unread import unread_kind
from tracksided.checkpoints.formats.weight_names import is_name_of_shards, is_weight_name
from tracksided.checkpoints.listing import DIRECTORY_MARK
from tracksided.checkpoints.naming import DIRECTORY_PROVENANCE, is_checkpoint_directory, stem_of
from tracksided.checkpoints.output_names import DEFAULT_DIRECTORY_OUTPUT, DEFAULT_OUTPUT

Signature: TypeAlias = frozenset[tuple[str, int, int, int]]
"""(name, inode, bytes, mtime_ns) of every checkpoint file; in a directory: directory/file."""

# Those that the Trainer writes come before others, because only they are known to be a series.
TRAINER_PATTERN = "checkpoint-*" + DIRECTORY_MARK
DIRECTORY_PATTERN = "*" + DIRECTORY_MARK

# A cache of a data set may lie beside checkpoints; none of these has as many files.
MAX_ENTRIES = 4096

_STATES = frozenset({ACCELERATE_STATE, TRAINER_STATE, LIGHTNING_STATE})  # written after the weights
_OWN_STEM = stem_of(DEFAULT_OUTPUT)


@dataclass(frozen=True, slots=True)
class Look:
    """What a directory holds at one moment."""

    signature: Signature
    refused: tuple[tuple[str, str], ...] = field(default=(), compare=False)
    """(name, reason) of what might be a checkpoint and cannot be looked at, or is not read."""

    @property
    def patterns(self) -> tuple[str, ...]:
        """One pattern per suffix or kind of directory, that of what was written last first."""
        latest: dict[str, int] = {}
        for name, _, _, mtime_ns in self.signature:
            pattern = _pattern_of(name)
            latest[pattern] = max(latest.get(pattern, 0), mtime_ns)
        return tuple(sorted(latest, key=latest.__getitem__, reverse=True))

    @property
    def default_output(self) -> str:
        """What an average of the first pattern is called."""
        is_directory = any(pattern.endswith(DIRECTORY_MARK) for pattern in self.patterns[:1])
        return DEFAULT_DIRECTORY_OUTPUT if is_directory else DEFAULT_OUTPUT

    @property
    def names(self) -> frozenset[str]:
        """Of the checkpoints."""
        return frozenset(name.partition("/")[0] for name, _, _, _ in self.signature)

    @property
    def by_checkpoint(self) -> Mapping[str, Signature]:
        """What was seen of each checkpoint, by its name."""
        found: dict[str, set[tuple[str, int, int, int]]] = defaultdict(set)
        for entry in self.signature:
            found[entry[0].partition("/")[0]].add(entry)
        return {name: frozenset(entries) for name, entries in found.items()}

    def only(self, names: Collection[str]) -> "Look":
        """Return what was seen of some checkpoints.

        Args:
            names: of them.
        """
        kept = {entry for entry in self.signature if entry[0].partition("/")[0] in names}
        return Look(frozenset(kept), self.refused)

    @property
    def most_of_one_kind(self) -> int:
        """Number of checkpoints that the most frequent pattern matches."""
        by_pattern: dict[str, set[str]] = defaultdict(set)
        for name, _, _, _ in self.signature:
            by_pattern[_pattern_of(name)].add(name.partition("/")[0])
        return max((len(names) for names in by_pattern.values()), default=0)


def look(directory: Path) -> Look:
    """Stat the checkpoints of a directory; one that is missing holds none.

    What cannot be looked at, such as a link to itself, is left out and named.
    Directories that are still being written are not seen: what is written last is not there.
    """
    found: set[tuple[str, int, int, int]] = set()
    directories: dict[str, list[os.DirEntry[str]]] = {}
    refused: list[tuple[str, str]] = []
    for entry in sorted(_entries(directory), key=lambda entry: entry.name):
        if entry.name.startswith("."):
            continue
        is_checkpoint = is_checkpoint_name(entry.name)
        try:
            is_directory = entry.is_dir()
        except OSError as error:
            refused += [_refusal(entry.name, error)] if is_checkpoint else []
            continue
        if is_checkpoint and not is_directory:
            found |= _stat(entry, entry.name, refused)
        elif may_hold_checkpoint(entry.name) and is_directory:
            directories[entry.name] = _entries(entry.path, MAX_ENTRIES)
    found |= _look_inside(directories, refused)
    return Look(frozenset(found), tuple(refused))


def is_checkpoint_name(name: str) -> bool:
    """Whether a file of this name is looked at; our own outputs are not."""
    is_own = stem_of(name) == _OWN_STEM
    return format_of(name) is not None and not is_own and not name.startswith(".")


def may_hold_checkpoint(name: str) -> bool:
    """Whether a directory of this name is looked into."""
    return name != DEFAULT_DIRECTORY_OUTPUT and not name.startswith(".")


def is_part_of_checkpoint(name: str) -> bool:
    """Whether a file of this name in a directory makes that a checkpoint, or a complete one."""
    return name == TRAINER_STATE or directory_format_of((name,)) is not None


def _look_inside(
    directories: Mapping[str, Sequence[os.DirEntry[str]]], refused: list[tuple[str, str]]
) -> set[tuple[str, int, int, int]]:
    """Stat the weights in checkpoint directories, and what tells that they are complete."""
    found: set[tuple[str, int, int, int]] = set()
    names = {name: {entry.name for entry in inside} for name, inside in directories.items()}
    has_trainer = any(TRAINER_STATE in inside for inside in names.values())
    has_lightning = any({METADATA, LIGHTNING_STATE} <= inside for inside in names.values())
    for name, inside in directories.items():
        directory_format = directory_format_of(names[name])
        if directory_format is None or not directory_format.looks_finished(names[name]):
            reason = unread_kind(names[name])
            refused += [] if reason is None else [(name, reason)]
            continue
        if (
            lacks_state(name, names[name], has_trainer=has_trainer)
            or lacks_lightning_state(names[name], has_lightning=has_lightning)
            or DIRECTORY_PROVENANCE in names[name]
        ):
            continue
        for entry in inside:
            if entry.name in _STATES or directory_format.is_part(entry.name):
                found |= _stat(entry, f"{name}/{entry.name}", refused)
        for path, entry in _weights_deeper(inside):
            found |= _stat(entry, f"{name}/{path}", refused)
    return found


def _weights_deeper(inside: Sequence[os.DirEntry[str]]) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Yield files in directories in a checkpoint: shards of FSDP, models beside Accelerate's state.

    Of more directories than are read in a checkpoint none is looked into for models.
    """
    has_models = any(entry.name == ACCELERATE_STATE for entry in inside)
    directories = [entry for entry in inside if entry.is_dir(follow_symlinks=False)]
    for entry in directories:
        is_of_shards = is_name_of_shards(entry.name)
        if is_of_shards or (has_models and len(directories) <= MAX_DIRECTORIES):
            for file in _entries(entry.path, MAX_ENTRIES):
                if is_of_shards or is_weight_name(file.name):
                    yield f"{entry.name}/{file.name}", file


def _entries(directory: str | Path, limit: int | None = None) -> list[os.DirEntry[str]]:
    """List a directory; one that has more entries than the limit is listed as empty."""
    try:
        with os.scandir(directory) as entries:
            listed = list(itertools.islice(entries, None if limit is None else limit + 1))
            return [] if limit is not None and len(listed) > limit else listed
    except OSError:
        return []  # not there yet, or gone with its run


def _stat(
    entry: os.DirEntry[str], name: str, refused: list[tuple[str, str]]
) -> set[tuple[str, int, int, int]]:
    try:
        status = entry.stat()
    except FileNotFoundError:
        return set()  # rotated away since it was listed
    except OSError as error:
        refused.append(_refusal(name, error))
        return set()
    return {(name, status.st_ino, status.st_size, status.st_mtime_ns)}


def _refusal(name: str, error: OSError) -> tuple[str, str]:
    return name, f"cannot be looked at: {error.strerror}"


def _pattern_of(name: str) -> str:
    directory, separator, _ = name.partition("/")
    if not separator:
        return f"*{suffix_of(name)}"
    return TRAINER_PATTERN if is_checkpoint_directory(directory) else DIRECTORY_PATTERN
