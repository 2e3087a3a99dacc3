"""Steps with chosen maps, and decoded pictures."""

import io
from collections.abc import Callable, Iterable

import numpy as np
import pytest
from attention_values import make_map
from PIL import Image

from tracksided.reports import Picture
from tracksided.stages import AttentionMap, StepData


@pytest.fixture(scope="session", name="make_map")
def _make_map() -> Callable[..., AttentionMap]:
    return make_map


@pytest.fixture(scope="session")
def make_step() -> Callable[..., StepData]:
    def make(maps: Iterable[AttentionMap] = (), step: int = 100, **fields: object) -> StepData:
        values: dict[str, object] = {
            "run": "r",
            "step": step,
            "epoch": None,
            "maps": tuple(maps),
            "gradients": None,
            "gradient_statistics": None,
        }
        return StepData(**{**values, **fields})

    return make


@pytest.fixture(scope="session")
def decode() -> Callable[[Picture], np.ndarray]:
    """Return [height, width, 3] colours, checking what the picture says of itself."""

    def read(picture: Picture) -> np.ndarray:
        with Image.open(io.BytesIO(picture.png)) as image:
            image.load()
            assert image.size == (picture.width_px, picture.height_px)
            return np.asarray(image.convert("RGB"))

    return read
