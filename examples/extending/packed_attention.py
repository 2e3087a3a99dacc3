"""An attention kernel of your own, registered with torch: one tensor holds queries to values."""

import functools
from collections.abc import Mapping, Sequence

import torch
from torch import nn

from trackside.capture.sources.call import (
    AttentionCall,
    Inspection,
    Kept,
    as_computed,
    bind,
    of_sample,
    pick,
    refuse,
)

_NAMES = ("qkv", "scale", "is_causal")
_DIMENSIONS = 5  # [batch, rows, 3, heads, head_dim]


def inspect_packed_attention(
    args: Sequence[object], kwargs: Mapping[str, object], module: nn.Module
) -> Inspection:
    """Describe ``zoo::packed_attention(Tensor qkv, float scale, bool is_causal)``.

    ``qkv`` is [batch, rows, 3, heads, head_dim], as fused kernels like it.
    """
    del module
    passed = bind(_NAMES, args, kwargs)
    qkv, scale = passed.get("qkv"), passed.get("scale")
    if not isinstance(qkv, torch.Tensor) or not isinstance(scale, float):
        return None
    refusal = refuse("packed_attention", qkv)
    if refusal is not None:
        return refusal
    if qkv.dim() != _DIMENSIONS or qkv.numel() == 0:
        return None
    batch_size, num_rows, _, num_heads, _ = qkv.shape
    is_causal = bool(passed.get("is_causal", False))
    return AttentionCall(
        batch_size=batch_size,
        num_heads=num_heads,
        num_key_heads=num_heads,
        num_queries=num_rows,
        num_keys=num_rows,
        scale=scale,
        is_causal=is_causal,
        is_causal_hint=is_causal,
        is_hand_written=False,
        shares_sequence=True,
        read=functools.partial(_read, qkv),
    )


def _read(qkv: torch.Tensor, kept: Kept) -> dict[str, torch.Tensor]:
    query, key, _ = of_sample(qkv, kept.sample).movedim(2, 0).unbind(2)  # [heads, rows, head_dim]
    return {
        "query": as_computed(kept.rows.take(pick(query, kept.heads))),
        "key": as_computed(pick(key, kept.key_heads)),
    }
