"""POSIX shared memory: create, open, refuse, tell the living from the dead, unlink.

A segment is a file ``<run>.r<rank>.<pid>.<nonce>.ring`` in the node-local directory. Beside it
lies a ``.alive`` file on which the writer holds a POSIX lock for as long as it lives: process
ids mean nothing across containers, and a ``flock`` would live on in forked data loader workers.
A POSIX lock is dropped when its process closes any descriptor of the file, so it is not on the
segment itself, and nothing here opens the ``.alive`` file of a writer in the same process.
"""

import contextlib
import errno
import fcntl
import logging
import mmap
import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from trackside.errors import ConfigError, SegmentNotCreated, SegmentRefused
from trackside.wire.layout import (
    HEADER_BYTES,
    MAX_CAPACITY_BYTES,
    MIN_CAPACITY_BYTES,
    SegmentHeader,
    align,
    pack_segment_header,
    parse_segment_header,
)
from trackside.wire.locks import OWNER_ONLY, SAFE_OPEN, lock_holder

logger = logging.getLogger(__name__)

SHM_DIR_VARIABLE = "TRACKSIDE_SHM_DIR"
RING_SUFFIX = ".ring"
ALIVE_SUFFIX = ".alive"
UNFINISHED_SUFFIX = ".tmp"

MAX_RUN_CHARS = 100
RUN_PATTERN = rf"[A-Za-z0-9._-]{{1,{MAX_RUN_CHARS}}}"
"""What a run id looks like: it stands in names of files."""

_NAME = re.compile(
    rf"(?P<run>{RUN_PATTERN})\.r(?P<rank>0|[1-9][0-9]{{0,8}})"
    r"\.(?P<pid>0|[1-9][0-9]{0,8})\.(?P<nonce>[A-Za-z0-9]{1,32})\.ring"
)
_GROUP_AND_OTHERS = 0o077
_LOCK_ATTEMPTS = 16  # each lost attempt needs a sweeper in a window of microseconds

# POSIX locks belong to the process, so what this process holds is known per process:
# (device, inode) of a locked .alive file to the pid that locked it.
_held_locks: dict[tuple[int, int], int] = {}


@dataclass(frozen=True, slots=True)
class SegmentName:
    """What a segment's file name says; see `file_name`."""

    run: str
    rank: int
    pid: int
    nonce: str
    """Letters and digits that tell two segments of one process apart."""

    def __post_init__(self) -> None:
        if _NAME.fullmatch(self.file_name) is None:
            raise ConfigError(
                f"segment name {self.file_name!r} is not <run>.r<rank>.<pid>.<nonce>.ring with a "
                f"run id of 1 to {MAX_RUN_CHARS} letters, digits, dots, underscores and dashes; "
                "set run= or TRACKSIDE_RUN"
            )

    @property
    def file_name(self) -> str:
        """``<run>.r<rank>.<pid>.<nonce>.ring``."""
        return f"{self.run}.r{self.rank}.{self.pid}.{self.nonce}{RING_SUFFIX}"

    @classmethod
    def parse(cls, file_name: str) -> "SegmentName | None":
        """Read a file name; None where it is not that of a segment."""
        match = _NAME.fullmatch(file_name)
        if match is None:
            return None
        return cls(match["run"], int(match["rank"]), int(match["pid"]), match["nonce"])


def node_directory(environ: Mapping[str, str]) -> Path:
    """Return the directory in which trainers and daemon of this user meet.

    Raises:
        ConfigError: ``TRACKSIDE_SHM_DIR`` is not an absolute path.
    """
    chosen = environ.get(SHM_DIR_VARIABLE)
    if not chosen:
        return Path("/dev/shm") / f"trackside-{os.geteuid()}"  # noqa: S108 - 0700, owner checked
    path = Path(chosen)
    if not path.is_absolute():
        raise ConfigError(
            f"{SHM_DIR_VARIABLE}={chosen!r} is not an absolute path; name one "
            "below /dev/shm, or on another tmpfs"
        )
    return path


def ensure_node_directory(path: Path) -> None:
    """Create the node-local directory, or check that nobody else can look or write into it.

    Raises:
        SegmentRefused: it is a link, no directory, another user's, or open to others.
    """
    try:
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=0o700)
        found = path.lstat()
    except OSError as error:
        raise SegmentRefused(
            f"node-local directory {path} cannot be made: {error.strerror}; "
            f"set {SHM_DIR_VARIABLE} to a directory you may write"
        ) from error
    mode = stat.S_IMODE(found.st_mode)
    if not stat.S_ISDIR(found.st_mode):
        problem, mend = (
            "is a link or a file, not a directory",
            f"remove it or set {SHM_DIR_VARIABLE}",
        )
    elif found.st_uid != os.geteuid():
        problem = f"belongs to user {found.st_uid}, not to user {os.geteuid()}"
        mend = f"set {SHM_DIR_VARIABLE} to a directory of your own"
    elif mode & _GROUP_AND_OTHERS:
        problem, mend = f"has mode {mode:04o}, open to other users", f"run: chmod 700 {path}"
    else:
        return
    raise SegmentRefused(f"node-local directory {path} {problem}; {mend}")


def scan(directory: Path) -> tuple[Path, ...]:
    """Return the paths of finished segments, sorted; none where there is no directory."""
    return _list(directory, RING_SUFFIX)


def create(
    directory: Path, header: SegmentHeader, hello: bytes = b""
) -> tuple[mmap.mmap, "AliveLock"]:
    """Make a segment with all its memory, and take the lock that says its writer lives.

    The segment appears under its name only when it is complete. Nothing is left on failure.

    Args:
        directory: the node-local one.
        header: its name and size.
        hello: who writes, packed; at most `MAX_HELLO_BYTES`.

    Raises:
        SegmentNotCreated: there is not enough memory, or the directory cannot be written.
    """
    capacity = header.capacity_bytes
    is_sane = MIN_CAPACITY_BYTES <= capacity <= MAX_CAPACITY_BYTES and align(capacity) == capacity
    if not is_sane:
        raise SegmentNotCreated(f"a ring of {capacity} bytes is out of range; change ring_bytes=")
    path = directory / header.file_name
    unfinished = path.with_name(path.name + UNFINISHED_SUFFIX)
    try:
        if path.exists():
            raise FileExistsError(errno.EEXIST, "a segment of this name exists", str(path))
        lock = AliveLock.acquire(path)
        try:
            memory = _allocate(unfinished, header.file_bytes)
            memory[:HEADER_BYTES] = pack_segment_header(header)
            memory[HEADER_BYTES : HEADER_BYTES + len(hello)] = hello
            unfinished.rename(path)
        except BaseException:
            unfinished.unlink(missing_ok=True)
            lock.release(unlink=True)
            raise
    except OSError as error:
        raise _not_created(directory, capacity, error) from error
    return memory, lock


def open_existing(path: Path, *, read_only: bool) -> tuple[mmap.mmap, SegmentHeader]:
    """Map a segment after checking that it is one, whole, and ours.

    Raises:
        LayoutMismatch: another wire version.
        SegmentRefused: anything else that is wrong, in one line.
    """
    refused = f"segment {path.name!r} refused:"
    if SegmentName.parse(path.name) is None:
        raise SegmentRefused(f"{refused} the name is not <run>.r<rank>.<pid>.<nonce>.ring")
    try:
        descriptor = os.open(path, (os.O_RDONLY if read_only else os.O_RDWR) | SAFE_OPEN)
    except OSError as error:
        reason = "a symbolic link" if error.errno == errno.ELOOP else error.strerror
        raise SegmentRefused(f"{refused} {reason}") from error
    try:
        file_bytes = _check_file(os.fstat(descriptor), refused)
        page = os.pread(descriptor, HEADER_BYTES, 0)
        header = parse_segment_header(page, path.name, file_bytes)
        protection = mmap.PROT_READ if read_only else mmap.PROT_READ | mmap.PROT_WRITE
        memory = mmap.mmap(descriptor, file_bytes, flags=mmap.MAP_SHARED, prot=protection)
    except (OSError, ValueError) as error:
        raise SegmentRefused(f"{refused} {error}") from error
    finally:
        os.close(descriptor)
    return memory, header


def first_hole(path: Path, start: int) -> int:
    """Return the offset of the first byte from ``start`` on that takes no memory, or the size.

    Raises:
        SegmentRefused: the file cannot be opened.
    """
    try:
        with _opened(path, os.O_RDONLY) as descriptor:
            return os.lseek(descriptor, start, os.SEEK_HOLE)
    except OSError as error:
        raise SegmentRefused(f"segment {path.name!r} refused: {error.strerror}") from error


def is_writer_alive(ring_path: Path) -> bool:
    """Tell whether the process that created a segment still holds its lock.

    True also where that cannot be found out: a living writer's segment must never be removed.
    """
    path = ring_path.with_suffix(ALIVE_SUFFIX)
    try:
        if _is_held_here(path):
            return True
        return lock_holder(path) is not None
    except OSError as error:
        if error.errno in {errno.ENOENT, errno.ELOOP, errno.ENXIO, errno.EISDIR}:
            return False
        logger.warning("cannot tell whether %s is held, taking it as alive: %s", path, error)
        return True


def writer_pid(ring_path: Path) -> int | None:
    """Return the process that writes a segment, under the id that it has for this process.

    The id that a writer gives itself means nothing in another PID namespace; this one comes from
    the kernel. None where the writer is gone, or cannot be seen from here.
    """
    path = ring_path.with_suffix(ALIVE_SUFFIX)
    try:
        return os.getpid() if _is_held_here(path) else lock_holder(path) or None
    except OSError:
        return None


def remove(ring_path: Path) -> None:
    """Unlink a segment and its lock file; what is missing already is fine."""
    ring_path.unlink(missing_ok=True)
    ring_path.with_suffix(ALIVE_SUFFIX).unlink(missing_ok=True)


def sweep(directory: Path) -> tuple[Path, ...]:
    """Remove what writers killed while creating a segment left; return what was removed."""
    removed: list[Path] = []
    for path in _list(directory, ALIVE_SUFFIX):
        ring_path = path.with_suffix(RING_SUFFIX)
        try:
            if ring_path.exists() or _is_held_here(path):
                continue
            with _opened(path, os.O_RDWR) as descriptor:
                # Held while unlinking: a writer that opened the file before sees that it is gone.
                fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                unfinished = ring_path.with_name(ring_path.name + UNFINISHED_SUFFIX)
                for left in (unfinished, path):
                    if left.exists():
                        left.unlink()
                        removed.append(left)
        except OSError as error:
            logger.debug("not swept: %s: %s", path, error)
    return tuple(removed)


class AliveLock:
    """The writer's sign of life: a POSIX lock on the ``.alive`` file, held until `release`."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor
        self._identity = _identity(os.fstat(descriptor))
        _held_locks[self._identity] = os.getpid()

    @classmethod
    def acquire(cls, ring_path: Path) -> "AliveLock":
        """Create and lock the file beside ``ring_path``; raises OSError."""
        path = ring_path.with_suffix(ALIVE_SUFFIX)
        if path.exists() and _is_held_here(path):
            raise FileExistsError(errno.EEXIST, "this process holds the lock already", str(path))
        for _ in range(_LOCK_ATTEMPTS):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | SAFE_OPEN, OWNER_ONLY)
            try:
                fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if _identity(os.fstat(descriptor)) == _identity(path.lstat()):
                    return cls(path, descriptor)
            except (BlockingIOError, FileNotFoundError):
                pass  # a sweeper took the file between our open and our lock: make it anew
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)
        raise OSError(errno.EAGAIN, "the lock file is taken away again and again", str(path))

    def release(self, *, unlink: bool) -> None:
        """Give the lock up; nothing happens in a forked child."""
        if _held_locks.get(self._identity) != os.getpid():
            return
        if unlink:
            self._path.unlink(missing_ok=True)
        del _held_locks[self._identity]
        os.close(self._descriptor)


def _list(directory: Path, suffix: str) -> tuple[Path, ...]:
    try:
        return tuple(sorted(path for path in directory.iterdir() if path.suffix == suffix))
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return ()


def _allocate(path: Path, num_bytes: int) -> mmap.mmap:
    """Create a file with every page of it in memory; ENOSPC here saves a SIGBUS later."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | SAFE_OPEN, OWNER_ONLY)
    try:
        os.posix_fallocate(descriptor, 0, num_bytes)
        return mmap.mmap(descriptor, num_bytes, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE)
    finally:
        os.close(descriptor)


def _not_created(directory: Path, capacity: int, error: OSError) -> SegmentNotCreated:
    if error.errno not in {errno.ENOSPC, errno.ENOMEM, errno.EFBIG, errno.EDQUOT}:
        return SegmentNotCreated(f"no segment in {directory}: {error}; is it yours and writable?")
    space = os.statvfs(directory)
    return SegmentNotCreated(
        f"no room for a ring of {capacity} bytes in {directory}: "
        f"{space.f_bavail * space.f_frsize} bytes are free; lower ring_bytes= "
        f"(TRACKSIDE_RING_BYTES), enlarge the file system (docker: --shm-size) "
        f"or set {SHM_DIR_VARIABLE}"
    )


def _check_file(found: os.stat_result, refused: str) -> int:
    if not stat.S_ISREG(found.st_mode):
        raise SegmentRefused(f"{refused} not a regular file")
    if found.st_uid != os.geteuid():
        raise SegmentRefused(f"{refused} it belongs to user {found.st_uid}, not {os.geteuid()}")
    if found.st_mode & _GROUP_AND_OTHERS:
        mode = stat.S_IMODE(found.st_mode)
        raise SegmentRefused(f"{refused} its mode {mode:04o} lets other users in")
    return found.st_size


def _is_held_here(path: Path) -> bool:
    return _held_locks.get(_identity(path.lstat())) == os.getpid()


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino


@contextlib.contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    descriptor = os.open(path, flags | SAFE_OPEN)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
