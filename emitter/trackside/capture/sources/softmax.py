"""Softmax over keys: hand-written attention, and models that run "eager"."""

import functools
from collections.abc import Mapping, Sequence

import torch

from trackside.capture.sources.call import (
    AttentionCall,
    Inspection,
    Kept,
    bind,
    of_sample,
    pick,
    refuse,
)

# `torch.nn.functional.softmax` has a third positional argument that only warns.
_FUNCTIONAL_NAMES = ("input", "dim", "_stacklevel", "dtype")
_METHOD_NAMES = ("input", "dim", "dtype")
_DIMENSIONS = 4  # [batch, heads, queries, keys]


def inspect_softmax(args: Sequence[object], kwargs: Mapping[str, object]) -> Inspection:
    """Describe `torch.softmax` and `Tensor.softmax` of [batch, heads, queries, keys].

    Logits of another number of dimensions are not attention for sure (a vocabulary, a router).
    What softmax is called on already holds scale and mask.
    """
    return _inspect(bind(_METHOD_NAMES, args, kwargs))


def inspect_functional_softmax(args: Sequence[object], kwargs: Mapping[str, object]) -> Inspection:
    """Describe `torch.nn.functional.softmax`, which differs in the order of its arguments."""
    return _inspect(bind(_FUNCTIONAL_NAMES, args, kwargs))


def _inspect(passed: Mapping[str, object]) -> Inspection:
    logits = passed.get("input", passed.get("self"))
    if not isinstance(logits, torch.Tensor) or not _is_over_keys(logits, passed.get("dim")):
        return None
    refusal = refuse("softmax", logits)
    if refusal is not None:
        return refusal
    if logits.numel() == 0 or not logits.is_floating_point():
        return None
    dtype = passed.get("dtype")
    batch_size, num_heads, num_queries, num_keys = logits.shape
    return AttentionCall(
        batch_size=batch_size,
        num_heads=num_heads,
        num_key_heads=num_heads,
        num_queries=num_queries,
        num_keys=num_keys,
        scale=1.0,
        is_causal=False,
        is_causal_hint=False,
        is_hand_written=True,
        shares_sequence=None,
        read=functools.partial(_read, logits, dtype if isinstance(dtype, torch.dtype) else None),
    )


def _is_over_keys(logits: torch.Tensor, dim: object) -> bool:
    return logits.dim() == _DIMENSIONS and dim in {-1, _DIMENSIONS - 1}


def _read(logits: torch.Tensor, dtype: torch.dtype | None, kept: Kept) -> dict[str, torch.Tensor]:
    rows = kept.rows.take(pick(of_sample(logits, kept.sample), kept.heads))
    # softmax casts before it computes: to a wider type exactly, to a narrower one with rounding.
    if dtype is not None and dtype.itemsize < rows.dtype.itemsize:
        rows = rows.to(dtype)
    return {"logits": rows}
