"""The 256 colours of a heat map: 224 for weights, 32 greys for lettering and frames."""

from functools import lru_cache

import numpy as np
from matplotlib import colormaps
from numpy.typing import NDArray

from tracksided.samples import FloatArray

Indices = NDArray[np.uint8]

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
    greys = np.repeat(np.linspace(0, 1, NUM_GREYS)[:, None], 3, axis=1)
    indices = np.rint(np.concatenate([colours, greys]) * 255).astype(np.uint8)
    return bytes(indices.tobytes())


def weight_indices(weights: FloatArray) -> Indices:
    """Map weights to colours on a square-root scale from 0 to 1, the same for every picture.

    The root lifts small weights: on a linear scale little but the first key is ever seen.
    """
    is_nan = np.isnan(weights)
    scaled = np.sqrt(np.clip(np.where(is_nan, 0, weights), 0, 1)) * np.float32(NUM_COLOURS - 1)
    indices: Indices = np.rint(scaled).astype(np.uint8)
    if is_nan.any():
        indices[is_nan] = NOT_A_NUMBER
    return indices


def ink_indices(ink: NDArray[np.float32]) -> Indices:
    """Map ink, 0 (paper) to 1 (black), to greys."""
    return np.asarray(WHITE - np.rint(ink * (NUM_GREYS - 1)), dtype=np.uint8)
