"""A tap that must clean up, and attention weights worked out in float64."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from trackside.capture.attention import AttentionTap
from trackside.capture.captured import CapturedAttention

Reconstruct = Callable[[CapturedAttention], NDArray[np.float64]]
MakeTap = Callable[..., AttentionTap]


@pytest.fixture
def make_tap() -> Iterator[MakeTap]:
    """Make an installed tap of everything; at the end nothing of it may be left."""
    taps: list[tuple[nn.Module, AttentionTap]] = []

    def fail(where: str, error: BaseException) -> None:
        raise AssertionError(where) from error

    def make(model: nn.Module, **settings: Any) -> AttentionTap:
        everything = {"layers": None, "heads": "all", "sample": 0, "max_queries": 512}
        tap = AttentionTap(model, **{**everything, "on_error": fail, **settings})
        tap.install()
        taps.append((model, tap))
        return tap

    yield make
    for _, tap in taps:
        tap.remove()
    for model, _ in taps:
        assert not model._forward_hooks
        assert not model._forward_pre_hooks
    assert torch._C._len_torch_function_stack() == 0


@pytest.fixture
def reconstruct() -> Reconstruct:
    """Compute softmax(query key^T * scale + mask) of a captured call, [heads, queries, keys]."""

    def weights(captured: CapturedAttention) -> NDArray[np.float64]:
        call = captured.call
        arrays = {
            name: (tensor if tensor.dtype is torch.bool else tensor.double()).numpy()
            for name, tensor in captured.tensors.items()
        }
        if "logits" in arrays:
            logits = arrays["logits"]
        else:
            query, key = arrays["query"], arrays["key"][list(call.key_heads)]
            logits = np.einsum("hqd,hkd->hqk", query, key) * call.scale
            mask = arrays.get("mask")
            if mask is not None and mask.dtype == np.bool_:
                logits = np.where(mask, logits, -np.inf)
            elif mask is not None:
                logits = logits + mask
            if call.is_causal:
                rows = np.array(call.query_rows)[:, None]
                logits = np.where(np.arange(call.num_keys) <= rows, logits, -np.inf)
        powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
        return powers / powers.sum(axis=-1, keepdims=True)

    return weights
