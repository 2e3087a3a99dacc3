"""Flex attention: scores that the user's own functions change and mask.

`torch.nn.attention.flex_attention.flex_attention` calls the operator that is seen here, with the
functions as they were passed. They are evaluated once more, for one sample and the kept rows.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

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
from trackside.capture.sources.softmax import learned_sinks

_NAMES = ("query", "key", "value", "score_mod", "block_mask", "scale")
_NAME = "flex_attention"
_DIMENSIONS = 4  # [batch, heads, rows, head_dim]
_NO_SCORE_MOD = "_identity"  # what flex_attention passes on for score_mod=None
_NO_MASK_MOD = "noop_mask"  # and for block_mask=None

Modification = Callable[..., torch.Tensor]


@dataclass(frozen=True, slots=True)
class _Call:
    """Those arguments that decide the weights."""

    query: torch.Tensor
    key: torch.Tensor
    scale: float
    mask_mod: Modification | None
    score_mod: Modification | None
    sinks: torch.Tensor | None  # [heads]

    @property
    def heads_per_key(self) -> int:
        return self.query.shape[1] // self.key.shape[1]


def inspect_flex(
    args: Sequence[object], kwargs: Mapping[str, object], module: nn.Module
) -> Inspection:
    """Describe a call of the flex-attention operator.

    With a mask function only, queries and keys are kept with the mask that it makes. A score
    function may do anything to a score: then the scores themselves are computed and kept.

    The operator has no sinks. `transformers` scales what it returns by what a module's ``sinks``
    leave of each row, so that there the sinks belong to the weights.
    """
    passed = bind(_NAMES, args, kwargs)
    query, key, scale = passed.get("query"), passed.get("key"), passed.get("scale")
    block_mask, score_mod = passed.get("block_mask"), passed.get("score_mod")
    if not isinstance(query, torch.Tensor) or not isinstance(key, torch.Tensor):
        return None
    refusal = refuse(_NAME, query, key)
    if refusal is not None:
        return refusal
    mask_mod = block_mask[-1] if isinstance(block_mask, tuple) and block_mask else None
    has_shape = query.dim() == key.dim() == _DIMENSIONS and query.numel() and key.numel()
    if not has_shape or query.shape[1] % key.shape[1]:
        return Refusal(f"{_NAME} was called on shapes that cannot be shared out")
    if not callable(mask_mod) or not callable(score_mod) or not isinstance(scale, int | float):
        return Refusal(f"{_NAME} was called with arguments of an unknown torch version")
    own_mask = None if _is_called(mask_mod, _NO_MASK_MOD) else mask_mod
    own_score = None if _is_called(score_mod, _NO_SCORE_MOD) else score_mod
    is_theirs = type(module).__module__.startswith("transformers.")
    sinks = learned_sinks(module, query.shape[1]) if is_theirs else None
    return AttentionCall(
        batch_size=max(query.shape[0], key.shape[0]),
        num_heads=query.shape[1],
        num_key_heads=key.shape[1],
        num_queries=query.shape[2],
        num_keys=key.shape[2],
        scale=float(scale) if own_score is None else 1.0,
        is_causal=False,
        is_causal_hint="causal" in getattr(mask_mod, "__name__", ""),
        is_hand_written=False,
        shares_sequence=True if query is key else None,
        read=functools.partial(_read, _Call(query, key, float(scale), own_mask, own_score, sinks)),
    )


def _is_called(function: object, name: str) -> bool:
    module = getattr(function, "__module__", "")
    own_name = getattr(function, "__name__", "")
    return bool(module == "torch.nn.attention.flex_attention" and own_name == name)


def _read(call: _Call, kept: Kept) -> Mapping[str, torch.Tensor] | Refusal:
    query = as_computed(kept.rows.take(pick(of_sample(call.query, kept.sample), kept.heads)))
    key = as_computed(pick(of_sample(call.key, kept.sample), kept.key_heads))
    indices = _indices(kept, key.shape[1], query.device)
    sinks = {} if call.sinks is None else {"sinks": pick(call.sinks, kept.heads).float()}
    mask = None
    try:
        if call.mask_mod is not None:
            mask = _over_indices(call.mask_mod)(*indices)  # [heads, rows, keys]
        if call.score_mod is not None:
            scores = _scores(query, key, kept, call.heads_per_key) * call.scale
            logits = _over_indices(call.score_mod, has_score=True)(scores, *indices)
            shown = logits if mask is None else logits.masked_fill(~mask, -math.inf)
            return {"logits": shown, **sinks}
    except Exception as error:  # noqa: BLE001 - theirs, in a call that they did not make
        return Refusal(f"{_NAME} has a function that fails when it is called alone: {error!r:.200}")
    tensors = {"query": query, "key": key, **sinks}
    if mask is not None:  # what does not depend on the head was expanded to all of them
        tensors["mask"] = mask[:1] if mask.stride(0) == 0 else mask
    return tensors


def _indices(kept: Kept, num_keys: int, device: torch.device) -> tuple[torch.Tensor, ...]:
    """Return what the functions are called with: sample [], heads, query rows and keys."""
    sample = torch.full((), kept.sample, device=device)
    heads = torch.stack([torch.full((), head, device=device) for head in kept.heads])
    return sample, heads, kept.rows.positions(device), torch.arange(num_keys, device=device)


def _over_indices(function: Modification, *, has_score: bool = False) -> Modification:
    """Call a function of scalars for every head, row and key, as the operator itself does."""
    scores = (0,) if has_score else ()
    for dimensions in ((None, None, None, 0), (None, None, 0, None), (None, 0, None, None)):
        function = torch.vmap(function, in_dims=(*scores, *dimensions))
    vectorized = function

    def call(*args: torch.Tensor) -> torch.Tensor:
        # It makes table[row] an index by a tensor.
        from torch._dynamo._trace_wrapped_higher_order_op import (  # noqa: PLC0415 - slow to load; who calls flex attention has it
            TransformGetItemToIndex,
        )

        with torch._C._EnableTorchFunction(), TransformGetItemToIndex():  # noqa: SLF001 - no public one
            return vectorized(*args)

    return call


def _scores(query: torch.Tensor, key: torch.Tensor, kept: Kept, heads_per_key: int) -> torch.Tensor:
    """Multiply kept queries and keys as widely as the operator does, [heads, rows, keys]."""
    wide = torch.promote_types(query.dtype, torch.float32)
    places = [kept.key_heads.index(head // heads_per_key) for head in kept.heads]
    return query.to(wide) @ pick(key, places).to(wide).transpose(-2, -1)
