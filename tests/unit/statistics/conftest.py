"""Attention maps and gradient samples with chosen fields."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from attention_values import make_map

from trackside.wire.records import REPLICA
from tracksided.samples import GradientSample
from tracksided.stages import AttentionMap


@pytest.fixture(scope="session", name="make_map")
def _make_map() -> Callable[..., AttentionMap]:
    return make_map


@pytest.fixture(scope="session")
def make_gradients() -> Callable[..., GradientSample]:
    """Build a sample of parameters from their sampled gradients and weights."""

    def make(
        sample: Sequence[Sequence[float]],
        before: Sequence[Sequence[float]] | None = None,
        after: Sequence[Sequence[float]] | None = None,
        **fields: object,
    ) -> GradientSample:
        def arrays(rows: Sequence[Sequence[float]]) -> tuple[np.ndarray, ...]:
            return tuple(np.array(row, dtype=np.float32) for row in rows)

        values: dict[str, object] = {
            "names": tuple(f"p{i}" for i in range(len(sample))),
            "num_elements": tuple(len(row) for row in sample),
            "total_elements": tuple(len(row) for row in sample),
            "shards": (REPLICA,) * len(sample),
            "norm": np.ones(len(sample), dtype=np.float32),
            "abs_max": np.ones(len(sample), dtype=np.float32),
            "weight_norm": np.ones(len(sample), dtype=np.float32),
            "sample": arrays(sample),
            "weight_before": arrays(before or sample),
            "weight_after": arrays(after or sample),
        }
        return GradientSample(**{**values, **fields})

    return make
