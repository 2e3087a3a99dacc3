"""PNG files of 8-bit palette indices, compressed by isal at its fastest."""

import struct
import zlib

import numpy as np
from isal import isal_zlib

from tracksided.renderers.palette import Indices, palette_bytes

SIGNATURE = b"\x89PNG\r\n\x1a\n"
BIT_DEPTH = 8
PALETTE_COLOUR = 3  # colour type of RFC 2083, section 4.1.1
HEADER = struct.Struct(">IIBBBBB")  # IHDR: width, height, depth, colour, three methods
LEVEL = 1  # flat areas shrink enough; the next level doubles the time


def encode(image: Indices, palette: bytes | None = None) -> bytes:
    """Encode [height, width] palette indices; without ``palette``, of `palette_bytes`.

    Source: RFC 2083. Rows carry filter type 0: palette indices have no neighbours to predict.
    """
    height, width = image.shape
    return b"".join(
        (
            SIGNATURE,
            chunk(b"IHDR", header(width, height)),
            chunk(b"PLTE", palette_bytes() if palette is None else palette),
            chunk(b"IDAT", compress(image)),
            chunk(b"IEND", b""),
        )
    )


def header(width_px: int, height_px: int) -> bytes:
    """Return the content of IHDR."""
    return HEADER.pack(width_px, height_px, BIT_DEPTH, PALETTE_COLOUR, 0, 0, 0)


def compress(image: Indices) -> bytes:
    """Return the content of IDAT."""
    height, width = image.shape
    rows = np.zeros((height, width + 1), dtype=np.uint8)  # each row behind its filter type
    rows[:, 1:] = image
    return isal_zlib.compress(rows, LEVEL)


def chunk(name: bytes, content: bytes) -> bytes:
    """Frame a chunk."""
    crc = zlib.crc32(content, zlib.crc32(name))
    return b"".join((struct.pack(">I", len(content)), name, content, struct.pack(">I", crc)))
