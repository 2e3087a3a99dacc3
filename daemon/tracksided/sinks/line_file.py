"""A file of JSON lines that is only ever appended to, durably: a line is whole or not there."""

import io
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from tracksided.durable import sync_directory
from tracksided.sinks.json_file import is_in_place, open_regular, parse_json
from tracksided.sinks.refusal import output_error

logger = logging.getLogger(__name__)

BLOCK_BYTES = 1 << 20  # first guess of how much the newest lines take
MAX_NEWEST_BYTES = 64 << 20  # of the newest lines together; what lies before is not looked at
MAX_LINE_BYTES = 16 << 20  # far beyond any line of ours: its record's metadata has no more


class LineFile:
    """Appends lines durably. One thread, one process."""

    def __init__(self, path: Path) -> None:
        """Open or make the file and cut a line that a kill left torn.

        Raises:
            OutputError: the file cannot be read or written.
        """
        self.path = path
        self._is_torn = False  # after a failed write whose part of a line could not be cut
        self._foreign: list[Any] = []
        try:
            self._file = self._open()
            self._size, is_torn = self._whole_bytes()
            if is_torn:  # else another writer's newest line could go with it
                self._file.truncate(self._size)
        except OSError as error:
            raise output_error(self.path, error) from error

    def lines(self) -> Iterator[tuple[int, Any]]:
        """Yield the number and the JSON value of every line; others are named in the log.

        Raises:
            OutputError: the file cannot be read.
        """
        try:
            with self.path.open("rb") as file:
                for number, line in enumerate(bounded_lines(file), start=1):
                    value = self._decode(line, f"line {number}")
                    if value is not None:
                        yield number, value
        except OSError as error:
            raise output_error(self.path, error) from error

    def newest(self, count: int) -> list[Any]:
        """Return the JSON values of the newest lines, oldest first.

        Fewer where they are longer together than `MAX_NEWEST_BYTES`.

        Raises:
            OutputError: the file cannot be read.
        """
        try:
            with self.path.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                num_bytes = BLOCK_BYTES
                while True:
                    start = max(size - num_bytes, 0)
                    file.seek(start)
                    lines = file.read(size - start).splitlines(keepends=True)
                    is_enough = len(lines) > count or num_bytes >= MAX_NEWEST_BYTES
                    if start == 0 or is_enough:  # then the first one may be cut
                        break
                    num_bytes *= 2
        except OSError as error:
            raise output_error(self.path, error) from error
        whole = lines if start == 0 else lines[1:]
        values = [self._decode(line, "a line near its end") for line in whole[-count:]]
        return [value for value in values if value is not None]

    def append(self, encoded: bytes) -> None:
        """Add whole lines; when this returns, they are on disk.

        Raises:
            OutputError: they cannot be written; nothing was added.
        """
        try:
            self._follow()
            if self._is_torn:
                self._cut()
            self._look_for_others()
            self._write(encoded)
        except OSError as error:
            raise output_error(self.path, error) from error
        self._size += len(encoded)

    def take_foreign(self) -> list[Any]:
        """Return the JSON values that somebody else added while we wrote, each once.

        No lock tells it, which a network file system might keep for a dead process: only we are
        to make the file longer, and its length is known.
        """
        foreign, self._foreign = self._foreign, []
        return foreign

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _open(self) -> io.FileIO:
        is_new = not self.path.exists()
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
        file = io.FileIO(open_regular(self.path, flags), "ab")
        if is_new:
            sync_directory(self.path.parent)
        return file

    def _whole_bytes(self) -> tuple[int, bool]:
        """Return how many bytes the whole lines have, and whether more than that is there."""
        data_end = self.path.stat().st_size
        with self.path.open("rb") as file:
            end = data_end
            while end > 0:
                start = max(end - BLOCK_BYTES, 0)
                file.seek(start)
                found = file.read(end - start).rfind(b"\n")
                if found >= 0:
                    end = start + found + 1
                    break
                end = start
        if end != data_end:
            logger.warning("%s: a torn last line is removed", self.path)
        return end, end != data_end

    def _follow(self) -> None:
        """Begin anew where somebody moved or removed the file: what we append must be found."""
        if is_in_place(self.path, self._file.fileno()):
            return
        logger.warning("%s was removed or replaced while it was written; going on", self.path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lost, self._file = self._file, self._open()
        lost.close()
        self._size, self._is_torn = self.path.stat().st_size, False

    def _look_for_others(self) -> None:
        """Take note of what is there that we did not write; it stays also if our write fails."""
        size = os.fstat(self._file.fileno()).st_size
        if size > self._size:
            with self.path.open("rb") as file:
                file.seek(self._size)
                added = file.read(min(size - self._size, BLOCK_BYTES)).splitlines()
            lines = (self._decode(line, "a line that somebody else added") for line in added)
            self._foreign += [value for value in lines if value is not None]
        self._size = size

    def _write(self, encoded: bytes) -> None:
        try:
            written = 0
            while written < len(encoded):
                written += self._file.write(encoded[written:])
            os.fsync(self._file.fileno())
        except OSError:
            self._is_torn = True
            self._cut()
            raise

    def _cut(self) -> None:
        """Take back a part of a line: what follows it would be part of it."""
        self._file.truncate(self._size)
        self._is_torn = False

    def _decode(self, line: bytes, where: str) -> Any:
        try:
            return parse_json(line)
        except ValueError as error:
            logger.warning("%s: %s is left as it is: %s", self.path, where, error)
            return None


def bounded_lines(file: BinaryIO) -> Iterator[bytes]:
    """Yield the lines of a file with their ends, from where it stands.

    What lies there may be one line without end: of a line beyond `MAX_LINE_BYTES` the beginning
    is yielded, without a line's end.
    """
    while line := file.readline(MAX_LINE_BYTES):
        yield line
        piece = line
        while piece and not piece.endswith(b"\n"):
            piece = file.readline(BLOCK_BYTES)
