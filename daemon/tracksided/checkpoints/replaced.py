"""Empty a directory whose place an average has taken: what is not ours moves along."""

import filecmp
import logging
import os
import stat
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path, PurePath

from tracksided.checkpoints.formats.catalog import directory_format_of
from tracksided.checkpoints.naming import DIRECTORY_PROVENANCE
from tracksided.checkpoints.provenance import read_provenance, written_files
from tracksided.checkpoints.renaming import rename_to_free
from tracksided.durable import sync_directory

logger = logging.getLogger(__name__)

KEPT_SUFFIX = ".kept"


def hand_over(old: Path, new: Path) -> frozenset[str]:
    """Move what no average wrote out of a replaced directory into that which has its place.

    What has the name of a file of the new average is called ``name.kept`` there. So is a small file
    of the old average that was written to since, unless the new one holds the same.
    What cannot be moved stays, and so does everything where there is no new directory.

    Args:
        old: replaced, under a hidden name.
        new: under the name of the output.

    Returns:
        Names of what the average wrote, for `discard`.
    """
    try:
        own = _own_files(old, new)
        names = sorted(_names_in(old, own) - own) if new.is_dir() else []
        # Those first that keep their names, so that no other takes one of them.
        for name in sorted(names, key=lambda name: os.path.lexists(new / name)):
            _hand_over(old / name, new / name)
        if names:
            sync_directory(new)
    except OSError as error:
        logger.warning("%s is left, for the next averaging to empty: %s", old, error.strerror)
        return frozenset()
    return own


def discard(old: Path, own: frozenset[str]) -> None:
    """Remove a replaced directory, but for what somebody else has put into it since.

    What cannot be removed is left for the next averaging, together with the description that tells
    whose it is.
    """
    with suppress(OSError):
        for name in own - {DIRECTORY_PROVENANCE}:
            (old / name).unlink(missing_ok=True)
        for name in _directories_of(own):
            with suppress(OSError):  # not empty
                (old / name).rmdir()
        if set(os.listdir(old)) <= own:  # noqa: PTH208 - names only
            (old / DIRECTORY_PROVENANCE).unlink(missing_ok=True)
            old.rmdir()


def _own_files(old: Path, new: Path) -> frozenset[str]:
    """Name the files that the old average wrote and nobody since.

    Weights are the average's in any case. Averages from before they listed their files are taken to
    have written what the new one writes.

    Raises:
        OSError: the directory cannot be read.
    """
    provenance = read_provenance(old)
    if provenance is None:
        return frozenset()  # somebody's own directory, that came while the average was made
    listed = written_files(provenance)
    described_at = (old / DIRECTORY_PROVENANCE).stat().st_ctime_ns
    own = {DIRECTORY_PROVENANCE}
    for name in _names_in(old, listed or ()):
        is_ours = (new / name).is_file() if listed is None else name in listed
        status = (old / name).lstat()
        if (
            is_ours
            and stat.S_ISREG(status.st_mode)
            and (
                directory_format_of((PurePath(name).name,)) is not None
                or status.st_ctime_ns <= described_at
                or _is_equal(old / name, new / name)
            )
        ):
            own.add(name)
    return frozenset(own)


def _names_in(directory: Path, written: Collection[str]) -> frozenset[str]:
    """List it, and instead of those directories in it that an average wrote what is in them."""
    names = set(os.listdir(directory))  # noqa: PTH208 - names only
    for name in _directories_of(written) & names:
        if not (directory / name).is_symlink() and (directory / name).is_dir():
            names.remove(name)
            names |= {f"{name}/{inside}" for inside in os.listdir(directory / name)}  # noqa: PTH208 - names only
    return frozenset(names)


def _directories_of(names: Collection[str]) -> frozenset[str]:
    return frozenset(name.partition("/")[0] for name in names if "/" in name)


def _hand_over(path: Path, wanted: Path) -> None:
    target, number = wanted, 0
    try:
        wanted.parent.mkdir(exist_ok=True)
        while not rename_to_free(path, target):
            number += 1
            target = wanted.parent / f"{path.name}{KEPT_SUFFIX}{number if number > 1 else ''}"
    except OSError as error:
        logger.warning("%s cannot be moved into %s: %s", path, wanted.parent, error.strerror)
        return
    if number:
        message = "%s is a file of the new average; the one that was there is kept as %s"
        logger.warning(message, wanted, target.name)


def _is_equal(one: Path, other: Path) -> bool:
    try:
        return filecmp.cmp(one, other, shallow=False)
    except OSError:
        return False  # the new average has none of this name
