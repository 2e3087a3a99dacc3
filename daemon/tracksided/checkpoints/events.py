"""Hear from the kernel that something was written, so that a look comes sooner than its turn."""

import errno
import heapq
import logging
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from inotify_simple import INotify, flags, parse_events

from tracksided.checkpoints.settling import Happening
from tracksided.checkpoints.watcher import (
    is_checkpoint_name,
    is_part_of_checkpoint,
    may_hold_checkpoint,
)

logger = logging.getLogger(__name__)

# Neither reads nor single writes: only that a name is new, or what it names complete.
_EVENTS = flags.CLOSE_WRITE | flags.MOVED_TO | flags.CREATE | flags.ONLYDIR
_BUFFER_BYTES = 64 << 10  # some 1,400 events; what comes with more is a flood
_EVENT_BYTES = 16 + 256  # of the longest one: struct inotify_event and a name, inotify(7)
_MAX_READS = 16  # of a flood: more than the kernel's queue holds
MAX_WATCHES = 512  # of all directories; the kernel allows thousands to all programs of a user
MAX_WITHIN = 32  # checkpoint directories in one directory; the newest ones are being written

_OUT_OF_WATCHES = "no inotify watches are left to this user (sysctl fs.inotify.max_user_watches)"
_OUT_OF_INSTANCES = (
    "no inotify instance is left to this user (sysctl fs.inotify.max_user_instances, ulimit -n)"
)


class Kernel(Protocol):
    """The part of `inotify_simple.INotify` that is used."""

    def fileno(self) -> int:
        """Return the descriptor that events are read from."""

    def add_watch(self, path: Path, mask: int) -> int:
        """Return the watch of a directory; the same one twice for the same directory."""

    def rm_watch(self, wd: int) -> None:
        """Remove a watch."""

    def close(self) -> None:
        """Close the descriptor and with it all watches."""


@dataclass(frozen=True, slots=True)
class Notice:
    """Something happened to what may be a checkpoint."""

    directory: Path
    """As it was followed."""

    name: str
    """In ``directory``, or below it as directory/file; empty where events were missed."""

    happening: Happening


@dataclass(slots=True)
class _Followed:
    identity: tuple[int, int] | None = None
    """(device, inode) of the directory that is listened to; None: it is polled alone."""

    within: list[str] = field(default_factory=list)
    """Names of the directories in it that are listened to, too, that of the newest last."""

    problem: str | None = None
    told: set[str] = field(default_factory=set)


class DirectoryEvents:
    """Listens to directories of checkpoints, and to those in them. One thread; no call waits.

    It may miss anything: file systems over the network send no events for what other machines
    write, and the kernel has a bound on all of it. Whoever uses it looks at times by itself.
    """

    def __init__(self, connect: Callable[[], Kernel] | None = None) -> None:
        """Follow nothing yet.

        Args:
            connect: opens a descriptor that never blocks; raises OSError where there is none.
        """
        self._connect = connect or _connect
        self._kernel: Kernel | None = None
        self._followed: dict[Path, _Followed] = {}
        self._places: dict[int, set[tuple[Path, str]]] = {}
        """Watch to (followed directory, name in it or nothing): links lead to one watch.

        No place has two watches, or the one that is not known any more would stay for ever.
        """

        self._has_told_of_loss = False

    @property
    def descriptors(self) -> tuple[int, ...]:
        """What can be read from when there is something to hear: one, or none."""
        return () if self._kernel is None else (self._kernel.fileno(),)

    def problem_of(self, directory: Path) -> str | None:
        """Say why a directory, or one in it, is polled alone.

        None where it is listened to, and where it is not there yet.
        """
        followed = self._followed.get(directory)
        return None if followed is None else followed.problem

    def follow(self, directory: Path) -> bool:
        """Listen to a directory; to be repeated at times.

        A call finds out what no event tells: that it has come to be, that it or a link to it
        leads elsewhere now, and that watches are free again.

        Returns:
            Whether it is listened to from now on only: nothing is known of what was before.
        """
        followed = self._followed.setdefault(directory, _Followed())
        try:
            status = directory.stat()
        except OSError as error:
            self._leave(directory, followed)
            if isinstance(error, FileNotFoundError):
                followed.problem = None  # that is usual; the first checkpoint makes it
                return False
            self._tell(directory, followed, f"it cannot be opened: {error.strerror}")
            return False
        identity = (status.st_dev, status.st_ino)
        if followed.identity == identity and followed.problem is None:
            return False
        was_followed = followed.identity == identity
        self._leave(directory, followed)
        followed.problem = None
        if not self._watch(directory, followed, ""):
            return False
        followed.identity = identity
        for name in _newest_directories(directory):
            self._watch(directory, followed, name)
        return not was_followed

    def unfollow(self, directory: Path) -> None:
        """Listen to a directory no longer."""
        followed = self._followed.pop(directory, None)
        if followed is not None:
            self._leave(directory, followed)

    def read(self) -> tuple[Notice, ...] | None:
        """Return what has happened to checkpoints since the last call; None: nothing to anybody."""
        received, is_flood = b"", False
        if self._kernel is not None:
            received, is_flood = _receive(self._kernel.fileno())
        if not received:
            return None
        notices: list[Notice] = []
        for watch, mask, _, name in parse_events(received):
            if mask & flags.Q_OVERFLOW:
                is_flood = True
            elif mask & flags.IGNORED:  # the directory is gone, and the watch with it
                self._forget(watch)
            else:
                notices += self._notices(watch, mask, name)
        return tuple(notices) if not is_flood else self._recover()

    def close(self) -> None:
        """Listen to nothing any more; `follow` may begin anew."""
        self._followed.clear()
        self._places.clear()
        kernel, self._kernel = self._kernel, None
        if kernel is not None:
            with suppress(OSError):  # its descriptor is gone already, and all watches with it
                kernel.close()

    def _notices(self, watch: int, mask: int, name: str) -> Iterator[Notice]:
        for directory, within in tuple(self._places.get(watch, ())):
            if mask & flags.ISDIR:
                if within or not may_hold_checkpoint(name):
                    continue
                # What came into it before there was a watch is seen by the look.
                self._watch(directory, self._followed[directory], name)
                yield Notice(directory, name, Happening.APPEARED)
            elif is_part_of_checkpoint(name) if within else is_checkpoint_name(name):
                happening = _happening(mask, directory / within / name)
                yield Notice(directory, f"{within}/{name}" if within else name, happening)

    def _recover(self) -> tuple[Notice, ...]:
        """Have `follow` start anew: new directories may be among what was not heard."""
        if not self._has_told_of_loss:
            self._has_told_of_loss = True
            logger.info("more was written beside checkpoints than can be followed; polling goes on")
        for followed in self._followed.values():
            followed.identity = None
        return tuple(Notice(directory, "", Happening.MISSED) for directory in self._followed)

    def _watch(self, directory: Path, followed: _Followed, within: str) -> bool:
        """Listen to a directory, or to one in it; tell where that cannot be."""
        problem: str | None = None
        try:
            if self._kernel is None:
                self._kernel = self._connect()
            watch = self._kernel.add_watch(directory / within, _EVENTS)
        except OSError as error:
            if within and error.errno in {errno.ENOENT, errno.ENOTDIR, errno.EACCES}:
                return False  # gone already, or nothing that can be looked into
            problem = _problem(error)
        else:
            if watch not in self._places and len(self._places) >= MAX_WATCHES:
                self._kernel.rm_watch(watch)
                problem = f"{MAX_WATCHES} directories are listened to already"
        if problem is not None:
            self._tell(directory, followed, problem)
            return False
        places = self._places.setdefault(watch, set())
        if within:
            # Under one name at a time: it may have been renamed.
            before = {place for place in places if place[0] == directory and place[1]}
            places -= before
            named = {name for _, name in before} | {within}
            followed.within = [name for name in followed.within if name not in named]
            followed.within.append(within)
        places.add((directory, within))
        # What had the name before may live on: moved away, or removed and still open somewhere.
        self._move_out({(directory, within)}, keeping=watch)
        if len(followed.within) > MAX_WITHIN:
            self._move_out({(directory, followed.within.pop(0))})
        return True

    def _move_out(self, left: set[tuple[Path, str]], keeping: int | None = None) -> None:
        """Remove the watches that stand for nothing but these places.

        Args:
            left: of no watch from now on.
            keeping: the watch that goes on to stand for them.
        """
        for watch, places in self._places.items():
            if watch != keeping:
                places.difference_update(left)
        for watch in [watch for watch, places in self._places.items() if not places]:
            del self._places[watch]
            with suppress(OSError):  # the kernel removed it itself: the directory is gone
                if self._kernel is not None:
                    self._kernel.rm_watch(watch)

    def _leave(self, directory: Path, followed: _Followed) -> None:
        followed.identity = None
        followed.within.clear()
        everywhere = set().union(*self._places.values())
        self._move_out({place for place in everywhere if place[0] == directory})

    def _forget(self, watch: int) -> None:
        for directory, within in self._places.pop(watch, ()):
            followed = self._followed[directory]
            if not within:
                followed.identity = None
            elif within in followed.within:
                followed.within.remove(within)

    def _tell(self, directory: Path, followed: _Followed, problem: str) -> None:
        """Log each reason once per directory."""
        followed.problem = problem
        if problem not in followed.told:
            followed.told.add(problem)
            logger.warning("no file-system events from %s: %s; it is polled", directory, problem)


def _connect() -> Kernel:
    kernel: Kernel = INotify(nonblocking=True)
    return kernel


def _receive(descriptor: int) -> tuple[bytes, bool]:
    """Read events; of more than fit the buffer the rest is thrown away, and True returned."""
    received, is_flood = b"", False
    with suppress(BlockingIOError):  # there is no more
        received = more = os.read(descriptor, _BUFFER_BYTES)
        # Where another event would have fitted, there was none; what came since is for later.
        for _ in range(_MAX_READS):
            if len(more) <= _BUFFER_BYTES - _EVENT_BYTES:
                break
            more = os.read(descriptor, _BUFFER_BYTES)
            is_flood = True
    return received, is_flood


def _problem(error: OSError) -> str:
    known = {
        errno.ENOSPC: _OUT_OF_WATCHES,
        errno.EMFILE: _OUT_OF_INSTANCES,
        errno.ENFILE: _OUT_OF_INSTANCES,
    }
    return known.get(error.errno or 0, f"inotify answers: {error.strerror}")


def _happening(mask: int, path: Path) -> Happening:
    if mask & flags.CLOSE_WRITE:
        return Happening.CLOSED
    is_opened = mask & flags.CREATE and _is_first_name_of_file(path)
    return Happening.OPENED if is_opened else Happening.APPEARED


def _is_first_name_of_file(path: Path) -> bool:
    """Whether a name that is new stands for a new file: links stand for what is there already."""
    try:
        status = path.lstat()
    except OSError:
        return False
    return stat.S_ISREG(status.st_mode) and status.st_nlink == 1


def _newest_directories(directory: Path) -> tuple[str, ...]:
    """Name the directories that were written last, the newest last."""
    found: list[tuple[int, str]] = []
    with suppress(OSError), os.scandir(directory) as entries:  # gone: the next call finds out
        for entry in entries:
            with suppress(OSError):
                if may_hold_checkpoint(entry.name) and entry.is_dir():
                    found.append((entry.stat().st_mtime_ns, entry.name))
    return tuple(name for _, name in sorted(heapq.nlargest(MAX_WITHIN, found)))
