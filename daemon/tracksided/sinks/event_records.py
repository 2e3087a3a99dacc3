"""Reads the numbers in TensorBoard's event files, one record at a time; pictures are passed over.

TensorBoard's own reader computes checksums in Python and keeps whole events; a run with pictures
takes it minutes. Framing: see `tracksided.sinks.event_file`.
"""

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from google.protobuf.message import DecodeError
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.compat.proto.types_pb2 import DT_DOUBLE, DT_FLOAT

from tracksided.sinks.event_file import CRC_BYTES, LENGTH, masked_crc

MAX_NUMBERS_BYTES = 1 << 18  # room for some thousand numbers; larger events are pictures
PEEK_BYTES = 1024  # a picture begins within them, behind its tag
PNG = b"\x89PNG\r\n\x1a\n"
_DOUBLE = struct.Struct("<d")
_FLOAT = struct.Struct("<f")


@dataclass(frozen=True, slots=True)
class EventScalars:
    """The numbers of one event."""

    step: int
    wall_time: float
    values: tuple[tuple[str, float], ...]
    """(tag, number), as written."""

    is_restart: bool = False
    """A session starts here: this step and all after it are to be forgotten."""


class EventDamage(Exception):
    """A record is damaged, and nothing behind it can be found; the message says where."""


def is_event_file(name: str) -> bool:
    """Whether a file is one of TensorBoard's by its name, as TensorBoard itself decides."""
    return "tfevents" in name


def read_scalars(path: Path) -> Iterator[EventScalars]:
    """Yield the events that carry numbers, and restarts, in the order of the file.

    A record that ends with the file in its middle is still being written, or was when its writer
    was killed: it ends the events.

    Raises:
        OSError: the file cannot be read.
        EventDamage: a record is damaged; nothing behind it can be found.
    """
    with path.open("rb") as file:
        size = path.stat().st_size
        while (event := _next_event(file, size)) is not None:
            found = _scalars(event)
            if found.values or found.is_restart:
                yield found


def _next_event(file: BinaryIO, size: int) -> Event | None:
    """Return the next event that is small enough to hold numbers, None at the end."""
    while True:
        start = file.tell()
        head = file.read(LENGTH.size + CRC_BYTES)
        if len(head) < LENGTH.size + CRC_BYTES:
            return None
        if masked_crc(head[: LENGTH.size]) != head[LENGTH.size :]:
            raise EventDamage(f"has a damaged record at byte {start}")
        (length,) = LENGTH.unpack(head[: LENGTH.size])
        if file.tell() + length + CRC_BYTES > size:
            return None
        content = file.read(min(length, PEEK_BYTES))
        if length > MAX_NUMBERS_BYTES or (length > PEEK_BYTES and PNG in content):
            file.seek(length - len(content) + CRC_BYTES, os.SEEK_CUR)
            continue
        content += file.read(length - len(content))
        if masked_crc(content) != file.read(CRC_BYTES):
            raise EventDamage(f"has a damaged record at byte {start}")
        try:
            return Event.FromString(content)
        except DecodeError as error:
            raise EventDamage(f"has no event in its record at byte {start}") from error


def _scalars(event: Event) -> EventScalars:
    values = []
    for value in event.summary.value:
        number = _number(value)
        if number is not None:
            values.append((value.tag, number))
    is_restart = event.session_log.status == SessionLog.START and event.step > 0
    return EventScalars(event.step, event.wall_time, tuple(values), is_restart)


def _number(value: Summary.Value) -> float | None:
    """Return a scalar: a plain one, or a tensor of one element."""
    if value.HasField("simple_value"):
        return float(value.simple_value)
    if not value.HasField("tensor") or any(d.size != 1 for d in value.tensor.tensor_shape.dim):
        return None
    tensor = value.tensor
    match tensor.dtype:
        case dtype if dtype == DT_FLOAT:
            layout, plain = _FLOAT, tensor.float_val
        case dtype if dtype == DT_DOUBLE:
            layout, plain = _DOUBLE, tensor.double_val
        case _:
            return None
    if len(plain) == 1:
        return float(plain[0])
    content = tensor.tensor_content
    return float(layout.unpack(content)[0]) if len(content) == layout.size else None
