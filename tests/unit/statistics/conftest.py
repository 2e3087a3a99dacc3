"""Attention maps and gradient samples with chosen fields."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from trackside.wire.records import REPLICA
from tracksided.samples import GradientSample
from tracksided.stages import AttentionMap


@pytest.fixture(scope="session")
def make_map() -> Callable[..., AttentionMap]:
    """Build a map from its weights; all keys are visible unless said otherwise."""

    def make(weights: np.ndarray, **fields: object) -> AttentionMap:
        heads, rows, keys = weights.shape
        values: dict[str, object] = {
            "stack": "decoder",
            "type": "self_attention",
            "layer": 0,
            "module": "h.0.attn",
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
