"""`scaled_dot_product_attention`: queries and keys as they were passed."""

import functools
import math
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

from trackside.capture.sources.call import (
    AttentionCall,
    Inspection,
    Kept,
    Refusal,
    as_computed,
    bind,
    of_sample,
    pick,
    refuse,
)

if TYPE_CHECKING:
    from torch.nn.attention.bias import CausalBias

_NAMES = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
_DIMENSIONS = 4  # [batch, heads, rows, head_dim]


def inspect_sdpa(
    args: Sequence[object], kwargs: Mapping[str, object], module: nn.Module
) -> Inspection:
    """Describe a call of [batch, heads, rows, head_dim], [batch, rows, head_dim] or less.

    Keys of fewer heads, or expanded from one head without a copy, count as that many key heads;
    so do keys that a Hugging Face model has copied to every head.
    The mask is boolean (True = attend) or is added to the logits; it broadcasts from the right.
    A `torch.nn.attention.bias.CausalBias` holds no numbers: it is a causal flag, or, aligned to
    the lower right, a mask that is made here.
    """
    passed = bind(_NAMES, args, kwargs)
    query, key, mask = passed.get("query"), passed.get("key"), passed.get("attn_mask")
    bias = _causal_bias(mask)
    mask = None if bias is not None else mask
    if not isinstance(query, torch.Tensor) or not isinstance(key, torch.Tensor):
        return None
    tensors = (query, key, mask) if isinstance(mask, torch.Tensor) else (query, key)
    refusal = refuse("scaled_dot_product_attention", *tensors)
    if refusal is not None:
        return refusal
    if max(query.dim(), key.dim()) > _DIMENSIONS:
        return Refusal(f"scaled_dot_product_attention was called on {query.dim()} dimensions")
    query, key = _four_dimensional(query), _four_dimensional(key)
    key = _unrepeated(query, key, module)
    if query.numel() == 0 or key.numel() == 0 or query.shape[1] % key.shape[1]:
        return Refusal("scaled_dot_product_attention was called on shapes it cannot share out")
    scale = passed.get("scale")
    is_lower_right = bias is not None and _is_lower_right(bias)
    is_causal = bool(passed.get("is_causal", False)) or (bias is not None and not is_lower_right)
    attn_mask = mask if isinstance(mask, torch.Tensor) else None
    return AttentionCall(
        batch_size=max(query.shape[0], key.shape[0]),
        num_heads=query.shape[1],
        num_key_heads=key.shape[1],
        num_queries=query.shape[2],
        num_keys=key.shape[2],
        scale=float(scale) if isinstance(scale, int | float) else 1 / math.sqrt(query.shape[3]),
        is_causal=is_causal,
        is_causal_hint=is_causal
        or is_lower_right
        or looks_shared(attn_mask, query.shape[0], query.shape[2]),
        is_hand_written=False,
        shares_sequence=True if passed.get("query") is passed.get("key") else None,
        read=functools.partial(_read, query, key, attn_mask, is_lower_right=is_lower_right),
        masks=() if attn_mask is None else (attn_mask,),
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


def _causal_bias(mask: object) -> "CausalBias | None":
    # Not imported: that would load all of torch.compile. Who made such a bias has done so.
    module = sys.modules.get("torch.nn.attention.bias")
    return mask if module is not None and isinstance(mask, module.CausalBias) else None


def _is_lower_right(bias: "CausalBias") -> bool:
    is_square = bias.seq_len_q == bias.seq_len_kv
    return bias.variant.name == "LOWER_RIGHT" and not is_square


def _lower_right(query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    """Make the mask with which the last query sees the last key."""
    num_queries, num_keys = query.shape[2], key.shape[2]
    ones = torch.ones(num_queries, num_keys, dtype=torch.bool, device=query.device)
    return ones.tril_(num_keys - num_queries)


def _unrepeated(query: torch.Tensor, key: torch.Tensor, module: nn.Module) -> torch.Tensor:
    """Take one of the heads that were made from the same key head."""
    num_heads = key.shape[1]
    if num_heads > 1 and key.stride(1) == 0:
        return key[:, :1]
    # Before a call with a mask, `transformers` repeats each key head as often as this attribute
    # says (`repeat_kv`). The call does not tell, and to compare heads would wait for the device.
    # For a single query it groups the heads in another way, and there are fewer than configured.
    group = getattr(module, "num_key_value_groups", 1)
    configured = getattr(getattr(module, "config", None), "num_attention_heads", None)
    is_theirs = type(module).__module__.startswith("transformers.") and isinstance(group, int)
    is_repeated = query.shape[1] == num_heads == configured
    if not is_theirs or not is_repeated or group < 1 or num_heads % group:
        return key
    return key[:, ::group]


def _read(
    query: torch.Tensor,
    key: torch.Tensor,
    mask: torch.Tensor | None,
    kept: Kept,
    *,
    is_lower_right: bool,
) -> dict[str, torch.Tensor]:
    if is_lower_right:
        mask = _lower_right(query, key)
    tensors = {
        "query": as_computed(kept.rows.take(pick(of_sample(query, kept.sample), kept.heads))),
        "key": as_computed(pick(of_sample(key, kept.sample), kept.key_heads)),
    }
    if mask is not None:
        padded = mask[(None,) * (_DIMENSIONS - mask.dim())]  # [1 or batch, 1 or heads, ...]
        rows = kept.rows.take(pick(of_sample(padded, kept.sample), kept.heads))
        tensors["mask"] = as_computed(rows).expand(-1, kept.rows.num_kept, key.shape[2])
    return tensors
