"""Steps with chosen maps, and decoded pictures."""

import io
from collections.abc import Callable, Iterable

import numpy as np
import pytest
from PIL import Image

from tracksided.reports import Picture
from tracksided.stages import AttentionMap, StepData


@pytest.fixture(scope="session")
def make_map() -> Callable[..., AttentionMap]:
    """Build a map from its weights."""

    def make(weights: np.ndarray, **fields: object) -> AttentionMap:
        heads, rows, keys = weights.shape
        values: dict[str, object] = {
            "stack": "decoder",
            "type": "self_attention",
            "layer": 0,
            "module": "model.h.0.attn",
            "heads": tuple(range(heads)),
            "num_heads": heads,
            "num_queries": rows,
            "query_rows": np.arange(rows),
            "weights": weights.astype(np.float32),
            "max_logit": np.zeros(heads, dtype=np.float32),
            "visible": np.ones((1, rows, keys), dtype=np.bool_),
        }
        return AttentionMap(**{**values, **fields})

    return make


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
