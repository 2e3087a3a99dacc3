"""List the files and directories of a place that may be checkpoints."""

import fnmatch
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from tracksided.checkpoints.formats.catalog import directory_format_of
from tracksided.checkpoints.formats.distributed_metadata import (
    LIGHTNING_STATE,
    METADATA,
    lacks_lightning_state,
)
from tracksided.checkpoints.formats.trainer_state import TRAINER_STATE, lacks_state
from tracksided.checkpoints.formats.unread import unread_kind
from tracksided.checkpoints.numbering import looks_like_checkpoint
from tracksided.checkpoints.policy import Candidate
from tracksided.checkpoints.provenance import is_of
from tracksided.checkpoints.store import Entry, Store

DIRECTORY_MARK = "/"  # at the end of a pattern: directories only


@dataclass(frozen=True, slots=True)
class _Found:
    candidate: Candidate
    names: frozenset[str] = frozenset()
    """Entries of a directory."""


def list_candidates(
    store: Store, patterns: Sequence[str], outputs: Collection[str]
) -> tuple[Candidate, ...]:
    """List what matches a pattern and is not the work of averaging itself.

    A pattern that ends in a slash matches directories only. Directories count if they are
    named like one (``checkpoint-100``, ``epoch_8``), or hold weights of a format that is known;
    not all are read here.

    Args:
        store: where to look, not below it.
        patterns: shell patterns of names.
        outputs: names that are never candidates, nor are links to them.

    Raises:
        CheckpointError: the store cannot be read.
    """
    entries = store.entries()
    taken = {entry.identity for entry in entries if entry.name in outputs}
    found: list[_Found] = []
    for entry in entries:
        if entry.identity in taken or not _matches(entry, patterns):
            continue
        if is_of(store.provenance_of(entry.name), entry.name, is_directory=entry.is_directory):
            continue
        candidate = Candidate(store.path / entry.name, store.written_at(entry))
        if entry.is_directory:
            found += _directory(store, replace(candidate, is_directory=True))
        else:
            found.append(_Found(candidate))
    return _with_unfinished(found)


def _matches(entry: Entry, patterns: Sequence[str]) -> bool:
    return any(
        fnmatch.fnmatchcase(entry.name, pattern.removesuffix(DIRECTORY_MARK))
        for pattern in patterns
        if entry.is_directory or not pattern.endswith(DIRECTORY_MARK)
    )


def _directory(store: Store, candidate: Candidate) -> list[_Found]:
    name = candidate.path.name
    names = store.names_in(name)
    is_known = directory_format_of(names) is not None or unread_kind(names) is not None
    if not looks_like_checkpoint(name) and not is_known:
        return []
    return [_Found(candidate, names)]


def _with_unfinished(found: Sequence[_Found]) -> tuple[Candidate, ...]:
    """Mark the directories that the Trainer, or Lightning, has not finished.

    Both write their state last. Where one directory has it, all others will get it, too.
    """
    has_trainer = any(TRAINER_STATE in entry.names for entry in found)
    has_lightning = any({METADATA, LIGHTNING_STATE} <= entry.names for entry in found)

    def reason(entry: _Found) -> str | None:
        if not entry.candidate.is_directory:
            return None
        if lacks_state(entry.candidate.path.name, entry.names, has_trainer=has_trainer):
            return f"not complete: no {TRAINER_STATE}, which the Trainer writes last"
        if lacks_lightning_state(entry.names, has_lightning=has_lightning):
            return f"not complete: no {LIGHTNING_STATE}, which Lightning writes last"
        return None

    return tuple(replace(entry.candidate, unfinished=reason(entry)) for entry in found)
