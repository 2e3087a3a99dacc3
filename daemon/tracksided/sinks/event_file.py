"""TensorBoard's event files: names, the framing of records, appending.

A record, all numbers little-endian:

====== ==== ===========================================================
offset size field
====== ==== ===========================================================
0      8    length n of the event
8      4    masked CRC-32C of the length
12     n    event, a serialized ``tensorboard.Event``
12+n   4    masked CRC-32C of the event
====== ==== ===========================================================
"""

import contextlib
import os
import re
import struct
from collections.abc import Iterable
from pathlib import Path

import google_crc32c

from tracksided.durable import sync_directory
from tracksided.sinks.json_file import is_in_place
from tracksided.sinks.refusal import output_error

# The ending tells our files from those of other writers, which are never touched.
_NAME = re.compile(r"events\.out\.tfevents\.(\d{10,})\.(.+)\.(\d+)\.\d+\.trackside")
_UNSAFE = re.compile(r"[^A-Za-z0-9_.-]")
LENGTH = struct.Struct("<Q")
_CRC = struct.Struct("<I")
CRC_BYTES = _CRC.size
_MASK_DELTA = 0xA282EAD8  # makes the CRC of bytes that hold CRCs meaningful
_CRC_BITS = 32
_MASK_SHIFT = 15


def file_name(born_at: int, host: str, pid: int, number: int) -> str:
    """Return a name; names sort by time of birth, which is the order in which they are read.

    Args:
        born_at: Unix time in seconds.
        host: where; what no file name holds is replaced.
        pid: of the writer.
        number: tells the files of one writer and second apart.
    """
    return f"events.out.tfevents.{born_at:010d}.{_UNSAFE.sub('-', host)}.{pid}.{number}.trackside"


def own_files(directory: Path) -> tuple[Path, ...]:
    """List the event files in a directory that trackside wrote, oldest first; raises OSError."""
    try:
        entries = [path for path in directory.iterdir() if _NAME.fullmatch(path.name)]
    except FileNotFoundError:
        return ()
    return tuple(sorted(path for path in entries if path.is_file() and not path.is_symlink()))


def born_at(path: Path) -> int:
    """Return the Unix time in the name of one of `own_files`."""
    match = _NAME.fullmatch(path.name)
    return int(match[1]) if match else 0


def writer_of(name: str) -> tuple[str, int] | None:
    """Return host and pid in what `file_name` returned; None for any other name."""
    match = _NAME.fullmatch(name)
    return None if match is None else (match[2], int(match[3]))


def frame(event: bytes) -> bytes:
    """Put one event into a record."""
    length = LENGTH.pack(len(event))
    return b"".join((length, masked_crc(length), event, masked_crc(event)))


def masked_crc(content: bytes) -> bytes:
    """Return the checksum that stands behind a length or an event."""
    crc = google_crc32c.value(content)
    rotated = (crc >> _MASK_SHIFT) | (crc << (_CRC_BITS - _MASK_SHIFT))
    return _CRC.pack((rotated + _MASK_DELTA) & 0xFFFFFFFF)


class EventFile:
    """One new event file. One thread, one process."""

    def __init__(self, path: Path) -> None:
        """Create the file.

        Raises:
            OutputError: it cannot be made.
        """
        self.path = path
        self.end_offset = 0
        self.is_sound = True
        """False after a failed write whose torn bytes could not be cut."""

        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(
                path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o644
            )
            sync_directory(path.parent)
        except OSError as error:
            raise output_error(path, error) from error

    @property
    def is_in_place(self) -> bool:
        """Whether the file still lies under its name."""
        try:
            return is_in_place(self.path, self._descriptor)
        except OSError:
            return True  # the write will tell

    def append(self, events: Iterable[bytes]) -> None:
        """Add all events, durably, or none.

        Raises:
            OutputError: they cannot be written.
        """
        records = memoryview(b"".join(frame(event) for event in events))
        try:
            written = 0
            while written < len(records):
                written += os.write(self._descriptor, records[written:])
            os.fsync(self._descriptor)
        except OSError as error:
            self._cut()
            raise output_error(self.path, error) from error
        self.end_offset += len(records)

    def close(self) -> None:
        """Close the file; twice is fine."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def discard(self) -> None:
        """Close and remove the file."""
        self.close()
        with contextlib.suppress(OSError):  # an empty file is harmless
            self.path.unlink()

    def _cut(self) -> None:
        """Take back a torn tail: a record behind it would never be read."""
        try:
            os.ftruncate(self._descriptor, self.end_offset)
        except OSError:
            self.is_sound = False
