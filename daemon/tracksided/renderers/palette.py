"""The 256 colours of a heat map: 224 for weights, 32 greys for lettering and frames."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from matplotlib import colormaps
from numpy.typing import NDArray

from tracksided.samples import FloatArray

Indices = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Scale:
    """From values of 0 to 1 to colours, the same in every picture."""

    ticks: tuple[float, ...]
    """Values named beside the colour bar, ascending."""

    has_root: bool
    """Whether colours follow the square root of the value: small ones are then told apart."""

    def place(self, value: float) -> float:
        """Return where a value lies on the colour bar, 0 to 1."""
        return math.sqrt(value) if self.has_root else value


# On a linear scale little but the first key is ever seen of a map.
WEIGHT = Scale((0.0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 1.0), has_root=True)
SHARE = Scale((0.0, 0.25, 0.5, 0.75, 1.0), has_root=False)

NUM_COLOURS = 224
NUM_GREYS = 32
BLACK = NUM_COLOURS
WHITE = NUM_COLOURS + NUM_GREYS - 1
NOT_A_NUMBER = NUM_COLOURS + NUM_GREYS // 2  # mid grey: no colour of the map
COLOUR_MAP = "viridis"


@lru_cache(maxsize=1)
def palette_bytes() -> bytes:
    """Return the 256 colours as red, green, blue bytes, in order of their index."""
    colours = colormaps[COLOUR_MAP](np.linspace(0, 1, NUM_COLOURS))[:, :3]  # [224, 3]
    return bytes(np.rint(colours * 255).astype(np.uint8).tobytes()) + _grey_bytes()


def chart_palette_bytes(colours: Sequence[str]) -> bytes:
    """Return a palette of a chart's own colours, ``rrggbb``, in front of the same greys."""
    own = b"".join(map(bytes.fromhex, colours))
    return own.ljust(3 * NUM_COLOURS, b"\0") + _grey_bytes()


def _grey_bytes() -> bytes:
    greys = np.rint(np.linspace(0, 255, NUM_GREYS)).astype(np.uint8)
    return bytes(np.repeat(greys, 3).tobytes())


def colour_indices(values: FloatArray, scale: Scale) -> Indices:
    """Map values to colours; below 0 is 0, above 1 is 1, NaN is grey."""
    is_nan = np.isnan(values)
    shares = np.clip(np.where(is_nan, 0, values), 0, 1)
    scaled = (np.sqrt(shares) if scale.has_root else shares) * np.float32(NUM_COLOURS - 1)
    indices: Indices = np.rint(scaled).astype(np.uint8)
    if is_nan.any():
        indices[is_nan] = NOT_A_NUMBER
    return indices


def ink_indices(ink: NDArray[np.float32]) -> Indices:
    """Map ink, 0 (paper) to 1 (black), to greys."""
    return np.asarray(WHITE - np.rint(ink * (NUM_GREYS - 1)), dtype=np.uint8)
