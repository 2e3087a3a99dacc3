"""`scaled_dot_product_attention`: queries and keys as they were passed."""

import functools
import math
from collections.abc import Mapping, Sequence

import torch
from torch import nn

from trackside.capture.sources.call import (
    AttentionCall,
    Inspection,
    Kept,
    Refusal,
    bind,
    of_sample,
    pick,
    refuse,
)

_NAMES = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
_DIMENSIONS = 4  # [batch, heads, rows, head_dim]


def inspect_sdpa(
    args: Sequence[object], kwargs: Mapping[str, object], module: nn.Module
) -> Inspection:
    """Describe a call of [batch, heads, rows, head_dim], [batch, rows, head_dim] or less.

    Keys of fewer heads, or expanded from one head without a copy, count as that many key heads.
    The mask is boolean (True = attend) or is added to the logits; it broadcasts from the right.
    """
    del module  # the arguments say it all
    passed = bind(_NAMES, args, kwargs)
    query, key, mask = passed.get("query"), passed.get("key"), passed.get("attn_mask")
    if not isinstance(query, torch.Tensor) or not isinstance(key, torch.Tensor):
        return None
    tensors = (query, key, mask) if isinstance(mask, torch.Tensor) else (query, key)
    refusal = refuse("scaled_dot_product_attention", *tensors)
    if refusal is not None:
        return refusal
    if max(query.dim(), key.dim()) > _DIMENSIONS:
        return Refusal(f"scaled_dot_product_attention was called on {query.dim()} dimensions")
    query, key = _four_dimensional(query), _four_dimensional(key)
    if key.shape[1] > 1 and key.stride(1) == 0:
        key = key[:, :1]
    if query.numel() == 0 or key.numel() == 0 or query.shape[1] % key.shape[1]:
        return Refusal("scaled_dot_product_attention was called on shapes it cannot share out")
    scale = passed.get("scale")
    is_causal = bool(passed.get("is_causal", False))
    attn_mask = mask if isinstance(mask, torch.Tensor) else None
    return AttentionCall(
        batch_size=max(query.shape[0], key.shape[0]),
        num_heads=query.shape[1],
        num_key_heads=key.shape[1],
        num_queries=query.shape[2],
        num_keys=key.shape[2],
        scale=float(scale) if isinstance(scale, int | float) else 1 / math.sqrt(query.shape[3]),
        is_causal=is_causal,
        is_causal_hint=is_causal or looks_shared(attn_mask, query.shape[0], query.shape[2]),
        is_hand_written=False,
        shares_sequence=True if passed.get("query") is passed.get("key") else None,
        read=functools.partial(_read, query, key, attn_mask),
    )


def looks_shared(mask: torch.Tensor | None, batch_size: int, num_queries: int) -> bool:
    """Say whether a mask differs from query to query but not from sample to sample.

    Padding masks are the other way round, and a position bias differs from head to head. The
    values are not read: on a GPU that would wait for the device.
    """
    if mask is None or num_queries == 1 or mask.shape[-2:] != (num_queries, num_queries):
        return False
    if mask.dim() == 2:  # noqa: PLR2004 - [queries, keys]
        return mask.stride(0) != 0
    return batch_size > 1 and math.prod(mask.shape[:-2]) == 1 and mask.stride(-2) != 0


def _four_dimensional(tensor: torch.Tensor) -> torch.Tensor:
    """View [batch, rows, size] and [rows, size] with one head, and with one sample."""
    if tensor.dim() == _DIMENSIONS:
        return tensor
    return tensor.reshape(-1, 1, *tensor.shape[-2:]) if tensor.dim() > 1 else tensor[None, None]


def _read(
    query: torch.Tensor, key: torch.Tensor, mask: torch.Tensor | None, kept: Kept
) -> dict[str, torch.Tensor]:
    tensors = {
        "query": kept.rows.take(pick(of_sample(query, kept.sample), kept.heads)),
        "key": pick(of_sample(key, kept.sample), kept.key_heads),
    }
    if mask is not None:
        padded = mask[(None,) * (_DIMENSIONS - mask.dim())]  # [1 or batch, 1 or heads, ...]
        rows = kept.rows.take(pick(of_sample(padded, kept.sample), kept.heads))
        tensors["mask"] = rows.expand(-1, kept.rows.num_kept, key.shape[2])
    return tensors
