"""A tap that must clean up, and attention weights worked out in float64."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from trackside.capture.attention import AttentionTap
from trackside.capture.captured import CapturedAttention

WIDTH, HEADS = 8, 2
Hidden = torch.Tensor  # [batch, rows, width]

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


class Block(nn.Module):
    """Causal attention of two heads."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(WIDTH, 3 * WIDTH)

    def forward(self, hidden: Hidden) -> Hidden:
        query, key, value = (
            part.unflatten(-1, (HEADS, -1)).transpose(1, 2)
            for part in self.project(hidden).chunk(3, -1)
        )
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        return hidden + mixed.transpose(1, 2).flatten(2)


class Model(nn.Module):
    """Some blocks, one after another."""

    def __init__(self, num_layers: int = 3) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(num_layers))

    def forward(self, hidden: Hidden) -> Hidden:
        for block in self.blocks:
            hidden = block(hidden)
        return hidden


@pytest.fixture
def block_class() -> type[nn.Module]:
    return Block


@pytest.fixture
def model_class() -> type[nn.Module]:
    return Model


@pytest.fixture
def hidden() -> Hidden:
    return torch.randn(2, 5, WIDTH)
