"""Finds the segments of the node-local directory; refuses bad ones once each."""

import errno
import logging
import os
import resource
from pathlib import Path

from trackside.errors import RecordCorrupt, SegmentRefused
from trackside.wire import segment
from trackside.wire.records import Hello, decode
from trackside.wire.ring import RingReader
from tracksided.ingest.stream import RankStream

logger = logging.getLogger(__name__)

MAX_CONFIG_DEPTH = 64  # far below Python's limit of recursion, far above any settings
DESCRIPTORS_PER_SEGMENT = 4  # its map, its doorbell, history and events of its run
RESERVED_DESCRIPTORS = 256  # for trainers that ring before their segment is opened
_PASSING = {errno.EMFILE, errno.ENFILE, errno.ENOMEM}

Identity = tuple[int, int, int]


class SegmentScanner:
    """Opens each segment once."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._opened: set[Path] = set()
        self._refused: dict[Path, tuple[Identity, str]] = {}
        self._has_postponed = False

    @property
    def refused(self) -> dict[str, str]:
        """File name to reason of what lies there and is not read."""
        return {path.name: reason for path, (_, reason) in self._refused.items()}

    def look(self) -> list[RankStream]:
        """Return the segments that appeared since the last look, the earliest writer first."""
        segment.sweep(self._directory)
        found = segment.scan(self._directory)
        for path in self._refused.keys() - set(found):
            del self._refused[path]
        new = [path for path in found if path not in self._opened and path not in self._refused]
        again = [path for path in found if path in self._refused]
        room = _room() if new else 0
        streams = [self._open(path) for path in (*again, *new[:room])]
        return sorted(
            (stream for stream in streams if stream is not None),
            key=lambda stream: stream.hello.started_boottime,
        )

    def forget(self, path: Path) -> None:
        """Note that a segment is done with and removed."""
        self._opened.discard(path)

    def _open(self, path: Path) -> RankStream | None:
        identity = _identity(path)
        if identity is None or self._refused.get(path, (None,))[0] == identity:
            return None
        try:
            reader = RingReader.open(path)
        except SegmentRefused as error:
            if _is_passing(error):
                self._postpone(error)
            else:
                self._refuse(path, identity, str(error))
            return None
        try:
            hello = _hello(reader)
        except (SegmentRefused, RecordCorrupt) as error:
            reader.close()
            self._refuse(path, identity, f"segment {path.name!r} refused: {error}")
            return None
        self._opened.add(path)
        self._refused.pop(path, None)
        return RankStream(reader, hello)

    def _postpone(self, error: SegmentRefused) -> None:
        """Leave a segment for the next look: what is short now may not be then."""
        if not self._has_postponed:
            self._has_postponed = True
            logger.error("%s; it is tried again", error)

    def _refuse(self, path: Path, identity: Identity, reason: str) -> None:
        self._refused[path] = (identity, reason)
        # The reason quotes the name, which may hold a line's end or a terminal's commands.
        logger.warning("%s; it is left in %s", reason, path.parent)


def _identity(path: Path) -> Identity | None:
    """Tell one file from another of the same name; None where it is gone."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


def _room() -> int:
    """Return how many segments may be opened before descriptors become scarce.

    libzmq aborts the process where none is left when a trainer's doorbell connects.
    """
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - names only
    reserved = min(RESERVED_DESCRIPTORS, soft // 4)
    return max(soft - used - reserved, 0) // DESCRIPTORS_PER_SEGMENT


def _is_passing(error: SegmentRefused) -> bool:
    """Tell whether our own want of descriptors or memory is the cause."""
    cause = error.__cause__
    return isinstance(cause, OSError) and cause.errno in _PASSING


def _hello(reader: RingReader) -> Hello:
    hello = decode(Hello, reader.hello())
    name = reader.name
    if (hello.run, hello.rank) != (name.run, name.rank):
        raise RecordCorrupt(f"its hello speaks of run {hello.run!r} rank {hello.rank}")
    if not 0 <= hello.rank < hello.world_size or not hello.local_world_size > 0:
        raise RecordCorrupt(f"rank {hello.rank} of {hello.world_size} is impossible")
    if hello.node_rank < 0:
        raise RecordCorrupt(f"node rank {hello.node_rank} is impossible")
    _check_path("save_dir", hello.save_dir)
    for directory in hello.checkpoints:
        _check_path("checkpoints", directory)
    _check_plain(hello.config, depth=0)
    return hello


def _check_path(field: str, path: str) -> None:
    if not Path(path).is_absolute():
        raise RecordCorrupt(f"{field} {path!r:.200} is not an absolute path")
    if "\0" in path:
        raise RecordCorrupt(f"{field} {path!r:.200} holds a null byte")


def _check_plain(value: object, depth: int) -> None:
    """Refuse what JSON cannot hold: ``config`` is the only part that is not typed."""
    if depth > MAX_CONFIG_DEPTH:
        raise RecordCorrupt(f"config is nested more than {MAX_CONFIG_DEPTH} deep")
    if isinstance(value, dict):
        for entry in value.values():
            _check_plain(entry, depth + 1)
    elif isinstance(value, list):
        for entry in value:
            _check_plain(entry, depth + 1)
    elif value is not None and not isinstance(value, bool | int | float | str):
        raise RecordCorrupt(f"config holds a {type(value).__name__}, which JSON cannot")
