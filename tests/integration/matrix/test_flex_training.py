"""Flex attention in a training: captured where it runs eagerly, and compiled as ever."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from tracksided.attention import reconstruct
from tracksided.samples import AttentionSample

pytestmark = [
    pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

BATCH, HEADS, ROWS, SIZE = 2, 2, 6, 8
Watched = Callable[..., tuple[list[torch.Tensor], tuple[AttentionSample, ...]]]


def _causal(_sample: Any, _head: Any, row: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    return row >= key


class _Output:
    def __init__(self, loss: torch.Tensor) -> None:
        self.loss = loss


class _Model(nn.Module):
    """What goes into the attention has no gradient: on the CPU it has no backward."""

    def __init__(self) -> None:
        super().__init__()
        self.mask = create_block_mask(_causal, None, None, ROWS, ROWS, device="cpu")
        self.project = nn.Linear(SIZE, SIZE)

    def forward(self, hidden: torch.Tensor) -> _Output:
        mixed = flex_attention(hidden, hidden, hidden, block_mask=self.mask)
        return _Output(self.project(mixed).square().mean())


@pytest.mark.parametrize("every", [1, 2])
def test_training_is_the_same_and_attention_is_captured(
    train: Callable[..., list[torch.Tensor]], watched: Watched, every: int
) -> None:
    hidden = torch.randn(BATCH, HEADS, ROWS, SIZE) * 2
    outcomes = []
    captured: tuple[AttentionSample, ...] = ()
    for is_watched in (False, True):
        torch.compiler.reset()
        torch.manual_seed(0)
        model = _Model()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        arguments: Any = (model, optimizer, {"hidden": hidden})
        if is_watched:
            losses, captured = watched(*arguments, every=every, num_steps=4)
        else:
            losses = train(*arguments, num_steps=4)
        outcomes.append((torch.stack(losses), model.project.weight.detach()))

    (one,) = captured
    assert (one.call.stack, one.call.module) == ("decoder", "")
    logits = np.einsum("hqd,hkd->hqk", *(hidden[1].double().numpy(),) * 2) / np.sqrt(SIZE)
    powers = np.where(np.tri(ROWS, dtype=bool), np.exp(logits), 0)
    expected = powers / powers.sum(-1, keepdims=True)
    assert np.abs(reconstruct(one).weights - expected).max() <= 1e-5
    for plain, tapped in zip(*outcomes, strict=True):
        assert torch.equal(plain, tapped)
