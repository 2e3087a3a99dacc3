"""Captured calls with chosen fields."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from attention_values import CALL

from tracksided.samples import AttentionSample


@pytest.fixture(scope="session")
def make_sample() -> Callable[..., AttentionSample]:
    """Build a sample from arrays; shapes of the call follow from them."""

    def make(
        query: np.ndarray | None = None,
        key: np.ndarray | None = None,
        *,
        mask: np.ndarray | None = None,
        logits: np.ndarray | None = None,
        sinks: np.ndarray | None = None,
        **fields: object,
    ) -> AttentionSample:
        like = logits if logits is not None else query
        num_heads, num_rows = like.shape[:2]
        num_keys = logits.shape[2] if logits is not None else key.shape[1]
        call = replace(
            CALL,
            **{
                "heads": tuple(range(num_heads)),
                "key_heads": tuple(range(num_heads)),
                "num_heads": num_heads,
                "num_queries": num_rows,
                "num_keys": num_keys,
                "query_rows": tuple(range(num_rows)),
                **fields,
            },
        )
        return AttentionSample(call, query, key, mask, logits, sinks)

    return make
