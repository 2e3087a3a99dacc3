"""Softmax over keys: hand-written attention, and models that run "eager"."""

import functools
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
from trackside.capture.sources.origin import comes_from_linear_layers

# `torch.nn.functional.softmax` has a third positional argument that only warns.
_FUNCTIONAL_NAMES = ("input", "dim", "_stacklevel", "dtype")
_METHOD_NAMES = ("input", "dim", "dtype")
_DIMENSIONS = 4  # [batch, heads, queries, keys]
_HEAD_COUNTS = ("num_heads", "num_attention_heads", "n_heads", "n_head", "nhead", "heads")


def inspect_softmax(
    args: Sequence[object], kwargs: Mapping[str, object], module: nn.Module
) -> Inspection:
    """Describe `torch.softmax` and `Tensor.softmax` of [batch, heads, queries, keys].

    Three dimensions are [batch * heads, queries, keys] where the module is an attention that
    says how many heads it has. All else is not attention for sure: a vocabulary, a router; nor
    are four dimensions that `comes_from_linear_layers` knows. Refused is what an attention
    module calls on more than four, or on four without its heads.

    What softmax is called on already holds scale and mask. Where the module has ``sinks``, one
    per head, and there are more columns than queries, the last column is theirs.
    """
    return _inspect(bind(_METHOD_NAMES, args, kwargs), module)


def inspect_functional_softmax(
    args: Sequence[object], kwargs: Mapping[str, object], module: nn.Module
) -> Inspection:
    """Describe `torch.nn.functional.softmax`, which differs in the order of its arguments."""
    return _inspect(bind(_FUNCTIONAL_NAMES, args, kwargs), module)


def learned_sinks(module: nn.Module, num_heads: int) -> torch.Tensor | None:
    """Return the logits that a module has learned for sinks, [heads]; None where it has none.

    Args:
        module: that made the call.
        num_heads: of the call.
    """
    sinks = getattr(module, "sinks", None)
    if not isinstance(sinks, torch.Tensor) or refuse("softmax", sinks) is not None:
        return None
    return sinks if sinks.shape == (num_heads,) else None


def _inspect(passed: Mapping[str, object], module: nn.Module) -> Inspection:
    logits = passed.get("input", passed.get("self"))
    if not isinstance(logits, torch.Tensor):
        return None
    if passed.get("dim") not in {-1, logits.dim() - 1} or not _may_be_attention(logits, module):
        return None
    refusal = refuse("softmax", logits)
    if refusal is not None:
        return refusal
    if logits.dim() < _DIMENSIONS:
        logits = logits.reshape(-1, _num_heads(module), *logits.shape[1:])
    elif logits.dim() > _DIMENSIONS or not _may_have_heads(module, logits.shape[1]):
        return Refusal(
            f"softmax was called on other dimensions than [batch, heads, queries, keys] in a "
            f"{type(module).__name__} of {_num_heads(module)} heads"
        )
    elif comes_from_linear_layers(logits):
        return None
    # As many columns as queries are all keys: there the sinks come in after softmax.
    has_column = logits.shape[-1] > logits.shape[-2]
    sinks = learned_sinks(module, logits.shape[1]) if has_column else None
    batch_size, num_heads, num_queries, num_columns = logits.shape
    dtype = passed.get("dtype")
    return AttentionCall(
        batch_size=batch_size,
        num_heads=num_heads,
        num_key_heads=num_heads,
        num_queries=num_queries,
        num_keys=num_columns if sinks is None else num_columns - 1,
        scale=1.0,
        is_causal=False,
        is_causal_hint=False,
        is_hand_written=True,
        shares_sequence=None,
        read=functools.partial(
            _read, logits, sinks, dtype if isinstance(dtype, torch.dtype) else None
        ),
    )


def _may_be_attention(logits: torch.Tensor, module: nn.Module) -> bool:
    if logits.numel() == 0 or not logits.is_floating_point():
        return False
    if logits.dim() == _DIMENSIONS:
        return True
    num_heads = _num_heads(module)
    if logits.dim() < _DIMENSIONS - 1 or not num_heads:
        return False
    if logits.dim() > _DIMENSIONS:  # blocks, or heads in groups: to be refused by name
        return True
    return logits.is_nested or logits.shape[0] % num_heads == 0  # some nested ones have no shape


def _num_heads(module: nn.Module) -> int:
    """Return how many heads an attention module says it has, 0 where it does not."""
    if "att" not in type(module).__name__.lower():
        return 0
    counts = (getattr(module, name, None) for name in _HEAD_COUNTS)
    return next((count for count in counts if isinstance(count, int) and count > 0), 0)


def _may_have_heads(module: nn.Module, found: int) -> bool:
    """Whether a module may have so many heads: what it says, twice that, or a rank's share.

    Twice for differential attention (Ye et al. 2024, arXiv:2410.05258). Of windows and sampling
    points some models put positions where others have heads.
    """
    said = _num_heads(module)
    return not said or said % found == 0 or found == 2 * said


def _read(
    logits: torch.Tensor, sinks: torch.Tensor | None, dtype: torch.dtype | None, kept: Kept
) -> dict[str, torch.Tensor]:
    rows = kept.rows.take(pick(of_sample(logits, kept.sample), kept.heads))
    # softmax casts before it computes: to a wider type exactly, to a narrower one with rounding.
    if dtype is not None and dtype.itemsize < rows.dtype.itemsize:
        rows = rows.to(dtype)
    if sinks is None:
        return {"logits": rows}
    # Models shift each row by its maximum first. Against the sink the shift is undone; in
    # float32, because the shifted logits would be rounded a second time.
    own = pick(sinks, kept.heads).float()  # [heads]
    shift = own[:, None, None] - rows[..., -1:].float()
    return {"logits": rows[..., :-1].float() + shift, "sinks": own}
