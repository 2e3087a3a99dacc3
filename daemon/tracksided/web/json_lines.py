"""Read JSON that others write: whole objects, and files of lines of which only news are read."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tracksided.web.plain_files import open_plain

CHUNK_BYTES = 4 << 20  # read at once: some thousand lines
MAX_FIRST_BYTES = 64 << 20  # of a long file; what lies before is left out
MAX_LINE_BYTES = 1 << 20  # far beyond any line of ours; a longer one is skipped
MAX_OBJECT_BYTES = 8 << 20  # of ``run.json``, which holds the settings of the training


@dataclass(frozen=True, slots=True)
class Lines:
    """What one call of `LineTail.read` found."""

    objects: tuple[Mapping[str, Any], ...]
    is_new_file: bool
    """Another file lies there now: what was read before belongs to the old one."""

    has_more: bool
    """The file goes on; read again at once."""


class LineTail:
    """Reads a growing file from where it stopped. One thread at a time."""

    def __init__(
        self, directory: Path, name: str, *, max_first_bytes: int = MAX_FIRST_BYTES
    ) -> None:
        self._directory = directory
        self._name = name
        self._max_first_bytes = max_first_bytes
        self._identity: tuple[int, int] | None = None
        self._position = 0
        self._rest = b""
        self.is_cut = False
        """Whether lines at the beginning of a long file were left out."""

    def read(self) -> Lines:
        """Read what was added, up to one chunk.

        Raises:
            OSError: the file is there and cannot be read.
        """
        descriptor = open_plain(self._directory, self._name)
        if descriptor is None:
            is_new = self._identity is not None
            self._begin(None, 0)
            return Lines((), is_new_file=is_new, has_more=False)
        try:
            found = os.fstat(descriptor)
            identity = (found.st_dev, found.st_ino)
            is_new = identity != self._identity or found.st_size < self._position
            if is_new:
                self._begin(identity, found.st_size)
            piece = os.pread(descriptor, CHUNK_BYTES, self._position)
        finally:
            os.close(descriptor)
        self._position += len(piece)
        return Lines(self._parse(piece), is_new, has_more=self._position < found.st_size)

    def _begin(self, identity: tuple[int, int] | None, size: int) -> None:
        self._identity = identity
        self._position = max(0, size - self._max_first_bytes)
        self.is_cut = self._position > 0
        # The first line of a cut file is half a line: an opening that is no JSON drops it.
        self._rest = b"?" if self.is_cut else b""

    def _parse(self, piece: bytes) -> tuple[Mapping[str, Any], ...]:
        *lines, self._rest = (self._rest + piece).split(b"\n")
        if len(self._rest) > MAX_LINE_BYTES:
            self._rest = b"?"
        parsed = (_object(line) for line in lines if len(line) <= MAX_LINE_BYTES)
        return tuple(entry for entry in parsed if entry is not None)


def read_object(directory: Path, name: str) -> Mapping[str, Any] | None:
    """Read a file that holds one object; None where there is none.

    Raises:
        OSError: the file is there and cannot be read.
    """
    descriptor = open_plain(directory, name)
    if descriptor is None:
        return None
    with os.fdopen(descriptor, "rb") as file:
        return _object(file.read(MAX_OBJECT_BYTES))


def _object(line: bytes) -> Mapping[str, Any] | None:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):  # a line that somebody else wrote
        return None
    return found if isinstance(found, dict) else None
