"""`multi_head_attention_forward`: one sample projected again from the call's arguments.

`torch.nn.MultiheadAttention` calls it, and the attention inside of it cannot be seen: a function
called from a handled one is not handled itself.
"""

import functools
import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from trackside.capture.sources.call import (
    AttentionCall,
    Inspection,
    Kept,
    Refusal,
    as_computed,
    pick,
    refuse,
)
from trackside.capture.sources.sdpa import looks_shared

_SIGNATURE = inspect.signature(functional.multi_head_attention_forward)
_NAME = "multi_head_attention_forward"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Arguments:
    """Those arguments that decide the attention weights; batch in the second dimension."""

    query: torch.Tensor  # [queries, batch, embed_dim]
    key: torch.Tensor  # [keys, batch, key_dim]
    num_heads: int
    query_weight: torch.Tensor  # [embed_dim, embed_dim]
    key_weight: torch.Tensor  # [embed_dim, key_dim]
    query_bias: torch.Tensor | None
    key_bias: torch.Tensor | None
    appended_key: torch.Tensor | None  # [1, 1, embed_dim]
    static_key: torch.Tensor | None  # [batch * heads, keys, head_dim], instead of a projection
    has_zero_key: bool
    attn_mask: torch.Tensor | None  # [queries, keys] or [batch * heads, ...]; True = blocked
    padding_mask: torch.Tensor | None  # [batch, keys]; True = blocked

    @property
    def num_projected_keys(self) -> int:
        """Keys that the masks speak of."""
        return self.static_key.shape[1] if self.static_key is not None else self.key.shape[0]

    @property
    def num_keys(self) -> int:
        """Keys including those that the module appends."""
        appended = 0 if self.appended_key is None else self.appended_key.shape[0]
        return self.num_projected_keys + appended + int(self.has_zero_key)

    @property
    def head_dim(self) -> int:
        return self.query.shape[2] // self.num_heads

    @property
    def masks(self) -> tuple[torch.Tensor, ...]:
        return tuple(mask for mask in (self.attn_mask, self.padding_mask) if mask is not None)


def inspect_multihead(
    args: Sequence[object], kwargs: Mapping[str, object], module: nn.Module
) -> Inspection:
    """Describe a call of `torch.nn.functional.multi_head_attention_forward`.

    Where the module takes its causal hint instead of the mask, the hint counts; in every other
    case the mask does. Boolean masks become True = attend; mixed ones are added up.
    """
    del module  # the arguments say it all
    passed = _SIGNATURE.bind(*args, **kwargs).arguments
    tensors = [value for value in passed.values() if isinstance(value, torch.Tensor)]
    refusal = refuse(_NAME, *tensors)
    if refusal is not None:
        return refusal
    hint = bool(passed.get("is_causal", False))
    is_causal = (
        hint and passed.get("key_padding_mask") is None and not passed.get("need_weights", True)
    )
    arguments = _arguments(passed, use_mask=not is_causal)
    if arguments is None or arguments.query.numel() == 0 or arguments.num_keys == 0:
        return Refusal(f"{_NAME} was called without projections or on nothing")
    attn_mask = passed.get("attn_mask")
    num_queries, batch_size, _ = arguments.query.shape
    return AttentionCall(
        batch_size=batch_size,
        num_heads=arguments.num_heads,
        num_key_heads=arguments.num_heads,
        num_queries=num_queries,
        num_keys=arguments.num_keys,
        scale=1 / math.sqrt(arguments.head_dim),
        is_causal=is_causal,
        is_causal_hint=hint or looks_shared(attn_mask, batch_size, num_queries),
        is_hand_written=False,
        shares_sequence=passed["query"] is passed["key"],
        read=functools.partial(_read, arguments),
        masks=arguments.masks,
    )


def _arguments(passed: Mapping[str, object], *, use_mask: bool) -> _Arguments | None:
    query, key = _tensor(passed, "query"), _tensor(passed, "key")
    in_weight, in_bias = _tensor(passed, "in_proj_weight"), _tensor(passed, "in_proj_bias")
    query_weight, key_weight = _tensor(passed, "q_proj_weight"), _tensor(passed, "k_proj_weight")
    if not passed.get("use_separate_proj_weight", False) and in_weight is not None:
        query_weight, key_weight, _ = in_weight.chunk(3)
    num_heads = passed["num_heads"]
    if query is None or key is None or query_weight is None or key_weight is None:
        return None
    if not isinstance(num_heads, int):
        return None
    query_bias, key_bias, _ = (None, None, None) if in_bias is None else in_bias.chunk(3)
    padding_mask = _tensor(passed, "key_padding_mask")
    if query.dim() == 2:  # noqa: PLR2004 - [rows, embed_dim]: no batch
        query, key = query.unsqueeze(1), key.unsqueeze(1)
        padding_mask = None if padding_mask is None else padding_mask.unsqueeze(0)
    return _Arguments(
        query=query,
        key=key,
        num_heads=num_heads,
        query_weight=query_weight,
        key_weight=key_weight,
        query_bias=query_bias,
        key_bias=key_bias,
        appended_key=_tensor(passed, "bias_k"),
        static_key=_tensor(passed, "static_k"),
        has_zero_key=bool(passed["add_zero_attn"]),
        attn_mask=_tensor(passed, "attn_mask") if use_mask else None,
        padding_mask=padding_mask,
    )


def _tensor(passed: Mapping[str, object], name: str) -> torch.Tensor | None:
    value = passed.get(name)
    return value if isinstance(value, torch.Tensor) else None


def _read(arguments: _Arguments, kept: Kept) -> dict[str, torch.Tensor]:
    device_type = arguments.query.device.type
    autocast = torch.is_autocast_enabled(device_type)
    dtype = torch.get_autocast_dtype(device_type) if autocast else arguments.query.dtype
    # Autocast keeps the weights it has cast for the whole region; ours would carry no gradient.
    with torch.autocast(device_type, enabled=False):
        query = kept.rows.take(arguments.query[:, kept.sample])
        query = _project(query, arguments.query_weight, arguments.query_bias, dtype)
        tensors = {
            "query": pick(_split_heads(query, arguments.num_heads), kept.heads),
            "key": pick(_keys(arguments, kept.sample, dtype), kept.key_heads),
        }
        mask = _mask(arguments, kept)
    if mask is not None:
        tensors["mask"] = as_computed(mask)
    return tensors


def _project(
    rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, dtype: torch.dtype
) -> torch.Tensor:
    cast_bias = None if bias is None else bias.to(dtype)
    return functional.linear(rows.to(dtype), weight.to(dtype), cast_bias)


def _split_heads(rows: torch.Tensor, num_heads: int) -> torch.Tensor:
    return rows.reshape(rows.shape[0], num_heads, -1).transpose(0, 1)  # [heads, rows, head_dim]


def _keys(arguments: _Arguments, sample: int, dtype: torch.dtype) -> torch.Tensor:
    """Return all keys of the sample, [heads, keys, head_dim]."""
    if arguments.static_key is not None:
        first = sample * arguments.num_heads
        keys = arguments.static_key[first : first + arguments.num_heads].to(dtype)
    else:
        projected = _project(
            arguments.key[:, sample], arguments.key_weight, arguments.key_bias, dtype
        )
        if arguments.appended_key is not None:
            projected = torch.cat([projected, arguments.appended_key[:, 0].to(dtype)])
        keys = _split_heads(projected, arguments.num_heads)
    return functional.pad(keys, (0, 0, 0, 1)) if arguments.has_zero_key else keys


def _mask(arguments: _Arguments, kept: Kept) -> torch.Tensor | None:
    """Merge both masks for the kept part, [1 or heads, rows, keys]."""
    masks: list[torch.Tensor] = []
    if arguments.attn_mask is not None:
        own = arguments.attn_mask
        if own.dim() == 2:  # noqa: PLR2004 - [queries, keys], for all samples and heads
            own = own.unsqueeze(0)
        else:
            own = own.reshape(-1, arguments.num_heads, *own.shape[1:])[kept.sample]
        masks.append(kept.rows.take(pick(own, kept.heads)))
    if arguments.padding_mask is not None:
        masks.append(arguments.padding_mask[kept.sample][None, None])
    if not masks:
        return None
    num_appended = arguments.num_keys - arguments.num_projected_keys
    if all(mask.dtype is torch.bool for mask in masks):
        blocked = functools.reduce(torch.logical_or, masks)
        merged = functional.pad(~blocked, (0, num_appended), value=True)
    else:
        added = functools.reduce(torch.add, [_additive(mask, arguments) for mask in masks])
        merged = functional.pad(added, (0, num_appended))
    return merged.expand(-1, kept.rows.num_kept, -1)


def _additive(mask: torch.Tensor, arguments: _Arguments) -> torch.Tensor:
    if mask.dtype is not torch.bool:
        return mask
    zeros = torch.zeros(mask.shape, dtype=arguments.query.dtype, device=mask.device)
    return zeros.masked_fill_(mask, -math.inf)
