"""PNG files of 8-bit palette indices, compressed by isal at its fastest."""

import struct
import zlib

import numpy as np
from isal import isal_zlib

from tracksided.renderers.palette import Indices, palette_bytes

SIGNATURE = b"\x89PNG\r\n\x1a\n"
BIT_DEPTH = 8
PALETTE_COLOUR = 3  # colour type of RFC 2083, section 4.1.1
LEVEL = 1  # flat areas shrink enough; the next level doubles the time


def encode(image: Indices) -> bytes:
    """Encode [height, width] palette indices.

    Source: RFC 2083. Rows carry filter type 0: palette indices have no neighbours to predict.
    """
    height, width = image.shape
    rows = np.zeros((height, width + 1), dtype=np.uint8)  # each row behind its filter type
    rows[:, 1:] = image
    header = struct.pack(">IIBBBBB", width, height, BIT_DEPTH, PALETTE_COLOUR, 0, 0, 0)
    return b"".join(
        (
            SIGNATURE,
            _chunk(b"IHDR", header),
            _chunk(b"PLTE", palette_bytes()),
            _chunk(b"IDAT", isal_zlib.compress(rows, LEVEL)),
            _chunk(b"IEND", b""),
        )
    )


def _chunk(name: bytes, content: bytes) -> bytes:
    crc = zlib.crc32(content, zlib.crc32(name))
    return b"".join((struct.pack(">I", len(content)), name, content, struct.pack(">I", crc)))
