"""A call of attention and a map, to be changed field by field."""

import numpy as np

from trackside.wire.records import Attention
from tracksided.stages import AttentionMap

CALL = Attention(
    stack="decoder",
    type="self_attention",
    layer=0,
    module="h.0.attn",
    scale=1.0,
    is_causal=False,
    heads=(0,),
    key_heads=(0,),
    num_heads=1,
    num_queries=1,
    num_keys=1,
    query_rows=(0,),
)


def make_map(weights: np.ndarray, **fields: object) -> AttentionMap:
    """Build a map from its weights; all keys are visible unless said otherwise."""
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
