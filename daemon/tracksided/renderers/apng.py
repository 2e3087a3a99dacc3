"""Animations made of pictures that `tracksided.renderers.png` encoded, without decoding them.

An animated PNG is a PNG with three more kinds of chunk: readers that do not know them show the
first frame. Each frame is the compressed content of one picture, as it is.

Source: W3C, PNG Specification (Third Edition), 11.3.4: acTL, fcTL and fdAT chunks.
"""

import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from tracksided.renderers.palette import WHITE, palette_bytes
from tracksided.renderers.png import (
    BIT_DEPTH,
    HEADER,
    PALETTE_COLOUR,
    SIGNATURE,
    chunk,
    compress,
    header,
)

FRAME_DELAY_MS = 250
LAST_DELAY_MS = 2000  # time to see where it ended
_LENGTH = struct.Struct(">I")
_CHUNK_EXTRA = 12  # length, name and CRC
_MAX_SIDE_PX = 1 << 14  # bounds what a damaged header may make us allocate


@dataclass(frozen=True, slots=True)
class Frame:
    """One palette picture, still compressed."""

    width_px: int
    height_px: int
    compressed: bytes


def read_frame(png: bytes) -> Frame | None:
    """Take a picture of `tracksided.renderers.png.encode` apart; None where it is none.

    Chunk CRCs are not looked at: readers of the animation do.
    """
    if not png.startswith(SIGNATURE):
        return None
    chunks: dict[bytes, bytes] = {}
    for name, content in _chunks(png):
        chunks[name] = chunks.get(name, b"") + content
    head = chunks.get(b"IHDR", b"")
    if len(head) != HEADER.size or chunks.get(b"PLTE") != palette_bytes():
        return None
    width, height, *rest = HEADER.unpack(head)
    is_sound = 0 < width <= _MAX_SIDE_PX and 0 < height <= _MAX_SIDE_PX
    if not is_sound or rest != [BIT_DEPTH, PALETTE_COLOUR, 0, 0, 0] or b"IDAT" not in chunks:
        return None
    return Frame(width, height, chunks[b"IDAT"])


def animate(frames: Sequence[Frame]) -> tuple[bytes, int, int]:
    """Put frames one after the other, each until the next; it begins again at the end.

    Frames that are smaller than the largest get white to their right and below.

    Args:
        frames: at least one.

    Returns:
        The animation, its width and height in pixels.

    Raises:
        ValueError: a frame that must be widened cannot be decompressed.
    """
    width = max(frame.width_px for frame in frames)
    height = max(frame.height_px for frame in frames)
    parts = [
        SIGNATURE,
        chunk(b"IHDR", header(width, height)),
        chunk(b"acTL", struct.pack(">II", len(frames), 0)),  # 0: forever
        chunk(b"PLTE", palette_bytes()),
    ]
    sequence = 0
    for index, frame in enumerate(frames):
        delay_ms = LAST_DELAY_MS if index == len(frames) - 1 else FRAME_DELAY_MS
        control = struct.pack(">IIIIIHHBB", sequence, width, height, 0, 0, delay_ms, 1000, 0, 0)
        parts.append(chunk(b"fcTL", control))
        sequence += 1
        content = _widened(frame, width, height)
        if index == 0:
            parts.append(chunk(b"IDAT", content))
        else:
            parts.append(chunk(b"fdAT", _LENGTH.pack(sequence) + content))
            sequence += 1
    parts.append(chunk(b"IEND", b""))
    return b"".join(parts), width, height


def _chunks(png: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield name and content of each whole chunk."""
    at = len(SIGNATURE)
    while at + _CHUNK_EXTRA <= len(png):
        (length,) = _LENGTH.unpack_from(png, at)
        if at + _CHUNK_EXTRA + length > len(png):
            return
        yield png[at + 4 : at + 8], png[at + 8 : at + 8 + length]
        at += _CHUNK_EXTRA + length


def _widened(frame: Frame, width: int, height: int) -> bytes:
    if (frame.width_px, frame.height_px) == (width, height):
        return frame.compressed
    decompressor = zlib.decompressobj()
    size = frame.height_px * (frame.width_px + 1)
    try:
        raw = decompressor.decompress(frame.compressed, size)
    except zlib.error as error:
        raise ValueError(f"a frame cannot be decompressed: {error}") from error
    if len(raw) != size:
        raise ValueError(f"a frame has {len(raw)} bytes, expected {size}")
    rows = np.frombuffer(raw, dtype=np.uint8).reshape(frame.height_px, frame.width_px + 1)
    image = np.full((height, width), WHITE, dtype=np.uint8)
    image[: frame.height_px, : frame.width_px] = rows[:, 1:]  # behind each row's filter type
    return compress(image)
