"""Exact attention maps from captured queries and keys, or from captured logits."""

import logging
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from tracksided.samples import AttentionSample, FloatArray
from tracksided.stages import AttentionMap

logger = logging.getLogger(__name__)

# Masks add -inf, the dtype's lowest (fp16: -65504) or, in old models, -10000, to the scores.
HIDDEN_LOGIT = -9000.0
# One map of 32 heads, 512 queries and 4096 keys takes 256 MiB.
MAX_KEPT_BYTES = 1 << 30


def reconstruct(sample: AttentionSample) -> AttentionMap:
    """Compute softmax(query key^T * scale + mask) in float32.

    A row that a mask of -inf or False hides wholly is all 0. A row hidden by large finite
    numbers only is what the model made of it, usually uniform, and `AttentionMap.visible` is
    False for it. A NaN logit makes its row NaN.

    Source: Vaswani et al. 2017, arXiv:1706.03762; sinks: Xiao et al. 2023, arXiv:2309.17453.
    """
    with np.errstate(invalid="ignore", over="ignore", under="ignore"):
        if sample.logits is not None:
            logits = np.array(sample.logits, dtype=np.float32)
            visible = ~(logits <= HIDDEN_LOGIT)
        else:
            logits = _scores(sample)
            visible = _mask(sample, logits)
        max_logit = _max_visible(logits, visible)
        _softmax(logits, sample.sinks)
    call = sample.call
    return AttentionMap(
        stack=call.stack,
        type=call.type,
        layer=call.layer,
        module=call.module,
        heads=call.heads,
        num_heads=call.num_heads,
        num_queries=call.num_queries,
        query_rows=np.asarray(call.query_rows, dtype=np.int64),
        weights=logits,
        max_logit=max_logit,
        visible=visible,
    )


def map_name(attention: AttentionMap) -> str:
    """Return the name of a map's files: ``decoder_layer0_self_attn``."""
    kind = "self" if attention.type == "self_attention" else "cross"
    return f"{attention.stack}_layer{attention.layer}_{kind}_attn"


class LazyMaps:
    """The maps of one step: kept up to a bound in memory, rebuilt on each walk beyond it.

    Not for use by several threads at once.
    """

    def __init__(
        self, samples: Sequence[AttentionSample], *, max_kept_bytes: int = MAX_KEPT_BYTES
    ) -> None:
        """Reconstruct each map once; those that fail are left out and named in `failures`."""
        self.failures: dict[str, str] = {}
        self._entries: list[AttentionMap | AttentionSample] = []
        room = max_kept_bytes
        for sample in samples:
            try:
                attention = reconstruct(sample)
            except Exception as error:
                call = sample.call
                where = f"{call.stack} layer {call.layer} {call.type}"
                logger.debug("no map for %s", where, exc_info=True)
                self.failures[f"map of {where}"] = repr(error)
                continue
            is_kept = attention.weights.nbytes <= room
            room -= attention.weights.nbytes if is_kept else 0
            self._entries.append(attention if is_kept else sample)

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[AttentionMap]:
        for entry in self._entries:
            yield entry if isinstance(entry, AttentionMap) else reconstruct(entry)


def _scores(sample: AttentionSample) -> FloatArray:
    query, key, call = sample.query, sample.key, sample.call
    if query is None or key is None:
        raise ValueError(f"{call.module or 'attention'}: neither logits nor query and key")
    scores = np.empty((len(call.heads), query.shape[1], key.shape[1]), dtype=np.float32)
    key_heads = np.asarray(call.key_heads)
    # Heads that share a key are multiplied together; the key is never repeated.
    for key_head in np.unique(key_heads):
        members = np.flatnonzero(key_heads == key_head)
        keys = np.asarray(key[key_head], dtype=np.float32).T  # [head_dim, keys]
        scores[members] = np.asarray(query[members], dtype=np.float32) @ keys
    scores *= np.float32(call.scale)
    return scores  # [heads, queries, keys]


def _mask(sample: AttentionSample, logits: FloatArray) -> NDArray[np.bool_]:
    """Apply the masks to ``logits`` in place; return what stays visible, [1 or heads, ...]."""
    call, mask = sample.call, sample.mask
    visible = np.ones((1, *logits.shape[1:]), dtype=np.bool_)
    if call.is_causal:
        rows = np.asarray(call.query_rows)[:, None]
        visible &= rows >= np.arange(logits.shape[2])
    if mask is not None and mask.dtype == np.bool_:
        visible = visible & mask
    if call.is_causal or (mask is not None and mask.dtype == np.bool_):
        np.copyto(logits, -np.inf, where=~visible)
    if mask is not None and mask.dtype != np.bool_:
        logits += mask
        visible = visible & ~(mask <= HIDDEN_LOGIT)
    return visible


def _max_visible(logits: FloatArray, visible: NDArray[np.bool_]) -> FloatArray:
    """Return the largest visible logit of each head, [heads]; NaN where nothing is visible."""
    seen = np.broadcast_to(visible, logits.shape)
    largest = np.max(logits, axis=(1, 2), where=seen, initial=-np.inf)
    return np.where(seen.any(axis=(1, 2)), largest, np.float32(np.nan))


def _softmax(logits: FloatArray, sinks: FloatArray | None) -> None:
    """Turn logits into weights in place; a row of -inf becomes 0."""
    top = logits.max(axis=-1, keepdims=True)  # [heads, queries, 1]
    if sinks is not None:
        sink = np.asarray(sinks, dtype=np.float32)[:, None, None]
        top = np.maximum(top, sink)
    top = np.where(np.isneginf(top), np.float32(0), top)
    logits -= top
    np.exp(logits, out=logits)
    mass = logits.sum(axis=-1, keepdims=True)
    if sinks is not None:
        mass += np.exp(sink - top)
    mass[mass == 0] = 1
    logits /= mass
