"""Empty a directory whose place an average has taken: what is not ours moves along.

Directories are given as open descriptors, so that everything happens in those that were looked at.
"""

import filecmp
import logging
import os
import stat
from collections.abc import Collection, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path, PurePath

from tracksided.checkpoints.formats.catalog import directory_format_of
from tracksided.checkpoints.naming import DIRECTORY_PROVENANCE
from tracksided.checkpoints.provenance import (
    carried_checksums,
    read_provenance,
    stated_crc32,
    written_files,
)
from tracksided.checkpoints.publish import take_owner_and_mode
from tracksided.checkpoints.refusals import SourceRefused
from tracksided.checkpoints.renaming import rename_to_free
from tracksided.checkpoints.source import SourceFile

logger = logging.getLogger(__name__)

KEPT_SUFFIX = ".kept"


def open_directory(path: Path | str, *, within: int | None = None) -> int:
    """Open a directory that is no link, by its name ``within`` an open one; raises OSError."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW
    return os.open(path, flags, dir_fd=within)


def hand_over(old: int, new: int) -> frozenset[str]:
    """Move what no average wrote out of a replaced directory into that which has its place.

    What has the name of a file of the new average is called ``name.kept`` there. So is a small file
    of the old average that was edited since, unless the new one holds the same.
    What cannot be moved stays.

    Args:
        old: descriptor of the directory that was replaced.
        new: of the one that has its name.

    Returns:
        Names of what the average wrote, for `discard`.
    """
    left, taker = _path_of(old), _path_of(new)
    try:
        provenance = read_provenance(left)
        _open_for_changes(old, written_files(provenance or {}) or ())
        own = _own_files(provenance, left, taker)
        names = _names_in(left, own) - own
        # Those first that keep their names, so that no other takes one of them.
        for name in sorted(names, key=lambda name: (os.path.lexists(taker / name), name)):
            _hand_over(left, taker, name)
        if names:
            os.fsync(new)
    except OSError as error:
        told = "%s is left, for the next averaging to empty: %s"
        logger.warning(told, left.resolve(), error.strerror)
        return frozenset()
    return own


def discard(path: Path, old: int, own: frozenset[str]) -> None:
    """Remove a replaced directory, but for what somebody else has put into it since.

    What cannot be removed is left for the next averaging; the description goes last, because it
    tells whose the rest is.

    Args:
        path: of the directory.
        old: its descriptor.
        own: what the average wrote, as `hand_over` returned it.
    """
    left = _path_of(old)
    with suppress(OSError):
        for name in own - {DIRECTORY_PROVENANCE}:
            with _held(left, name) as entry:
                entry.unlink(missing_ok=True)
        for name in _directories_of(own):
            with suppress(OSError):  # not empty
                (left / name).rmdir()
        if set(os.listdir(left)) <= own:  # noqa: PTH208 - names only
            (left / DIRECTORY_PROVENANCE).unlink(missing_ok=True)
            path.rmdir()


def _path_of(descriptor: int) -> Path:
    """Name an open directory so that nobody can put another one, or a link, in its place."""
    return Path(f"/proc/self/fd/{descriptor}")


@contextmanager
def _held(directory: Path, name: str) -> Iterator[Path]:
    """Name an entry, or one of a directory in it, so that no link leads elsewhere.

    Raises:
        OSError: there is no such directory in it.
    """
    around, _, last = name.rpartition("/")
    if not around:
        yield directory / last
        return
    descriptor = open_directory(directory / around)
    try:
        yield _path_of(descriptor) / last
    finally:
        os.close(descriptor)


def _open_for_changes(directory: int, written: Collection[str]) -> None:
    """Let the owner of a directory, and of those in it, empty them: they may be read-only.

    Raises:
        OSError: they are somebody else's.
    """
    within = _directories_of(written) & set(os.listdir(directory))
    for name in (".", *within):
        with suppress(NotADirectoryError):  # somebody's file or link in its place
            descriptor = open_directory(name, within=directory)
            try:
                mode = stat.S_IMODE(os.fstat(descriptor).st_mode)
                if mode & stat.S_IRWXU != stat.S_IRWXU:
                    os.fchmod(descriptor, mode | stat.S_IRWXU)
            finally:
                os.close(descriptor)


def _own_files(provenance: Mapping[str, object] | None, old: Path, new: Path) -> frozenset[str]:
    """Name the files of the old average that hold what it wrote, whatever their times are.

    Weights are the average's in any case. Averages from before they listed their files are taken to
    have written what the new one writes.

    Raises:
        OSError: the directory cannot be read.
    """
    if provenance is None:
        return frozenset()  # somebody's own directory, that came while the average was made
    listed = written_files(provenance)
    carried = carried_checksums(provenance)
    own = {DIRECTORY_PROVENANCE}
    for name in _names_in(old, listed or ()):
        is_ours = (new / name).is_file() if listed is None else name in listed
        status = (old / name).lstat()
        if (
            is_ours
            and stat.S_ISREG(status.st_mode)
            and (
                directory_format_of((PurePath(name).name,)) is not None
                or _holds(old / name, carried.get(name))
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


def _hand_over(old: Path, new: Path, name: str) -> None:
    try:
        _prepare_around(old, new, name)
        with _held(old, name) as entry, _held(new, name) as wanted:
            target, number = wanted, 0
            while not _rename(entry, target):
                number += 1
                target = wanted.with_name(
                    f"{wanted.name}{KEPT_SUFFIX}{number if number > 1 else ''}"
                )
    except OSError as error:
        logger.warning("%s cannot be moved into %s: %s", old.resolve() / name, new.resolve(), error)
        return
    if number:
        message = "%s is a file of the new average; the one that was there is kept as %s"
        logger.warning(message, new.resolve() / name, target.name)


def _rename(entry: Path, target: Path) -> bool:
    """Move an entry as `rename_to_free` does: a directory also where it is read-only.

    Raises:
        OSError: it cannot be moved.
    """
    try:
        return rename_to_free(entry, target)
    except PermissionError:
        if entry.is_symlink() or not entry.is_dir():
            raise
        with _opened_for_a_move(entry):
            return rename_to_free(entry, target)


@contextmanager
def _opened_for_a_move(directory: Path) -> Iterator[None]:
    """Let its owner write to a directory, which has to be so where it gets another parent.

    Raises:
        OSError: it is somebody else's.
    """
    descriptor = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        mode = stat.S_IMODE(os.fstat(descriptor).st_mode)
        _path_of(descriptor).chmod(mode | stat.S_IWUSR)
        try:
            yield
        finally:
            _path_of(descriptor).chmod(mode)
    finally:
        os.close(descriptor)


def _prepare_around(old: Path, new: Path, name: str) -> None:
    """Have the directory that an entry is in, with the mode that somebody gave it, in the new one.

    Raises:
        OSError: it cannot be made, or something else has its name.
    """
    around, _, _ = name.rpartition("/")
    if not around:
        return
    if not os.path.lexists(new / around):
        (new / around).mkdir(0o700)
    descriptor = open_directory(new / around)
    try:
        take_owner_and_mode(descriptor, (old / around).lstat(), besides=stat.S_IRWXU)
    finally:
        os.close(descriptor)


def _holds(path: Path, stated: str | None) -> bool:
    """Whether a file is what its average took over."""
    try:
        source = SourceFile(path)
    except SourceRefused:
        return False
    with closing(source):
        try:
            return stated_crc32(source.crc32(0, source.nbytes)) == stated
        except SourceRefused:
            return False


def _is_equal(one: Path, other: Path) -> bool:
    try:
        return filecmp.cmp(one, other, shallow=False)
    except OSError:
        return False  # the new average has none of this name
