from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from trackside.capture.attention import AttentionTap
from trackside.capture.captured import CapturedAttention

MakeTap = Callable[..., AttentionTap]
Reconstruct = Callable[[CapturedAttention], np.ndarray]

BATCH, HEADS, ROWS, SIZE, LAYERS = 2, 3, 6, 4, 4
TOLERANCE = 1e-5  # the contract, in fp32


class Layers(nn.Module):
    """Attends with one mask after another, made by a function of the layer's number."""

    def __init__(self, mask_of: Callable[[int], torch.Tensor]) -> None:
        super().__init__()
        self.mask_of = mask_of
        self.expected: list[np.ndarray] = []

    def forward(self, hidden: torch.Tensor) -> None:
        for layer in range(LAYERS):
            mask = self.mask_of(layer)
            functional.scaled_dot_product_attention(hidden, hidden, hidden, attn_mask=mask)
            self.expected.append(naive(hidden[1].double().numpy(), mask.numpy()))


def naive(hidden: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Attend to the second sample of the batch, [heads, queries, keys]."""
    logits = hidden @ hidden.swapaxes(-2, -1) / SIZE**0.5
    own = np.broadcast_to(mask, (BATCH, HEADS, ROWS, ROWS))[1]
    powers = np.exp(np.where(own, logits, -np.inf) if own.dtype == np.bool_ else logits + own)
    return powers / powers.sum(-1, keepdims=True)


def causal(offset: int = 0) -> torch.Tensor:
    return torch.ones(BATCH, 1, ROWS, ROWS).tril(offset).bool()


def capture(
    make_tap: MakeTap, reconstruct: Reconstruct, mask_of: Callable[[int], torch.Tensor]
) -> list[torch.Tensor]:
    """Check every map; the kept masks, layer by layer."""
    model = Layers(mask_of)
    tap = make_tap(model, sample=1, max_queries=4)
    tap.arm()
    model(torch.randn(BATCH, HEADS, ROWS, SIZE) * 2)
    captured = tap.take()
    for one, expected in zip(captured, model.expected, strict=True):
        rows = list(one.call.query_rows)
        assert np.abs(reconstruct(one) - expected[:, rows]).max() <= TOLERANCE
    return [one.tensors["mask"] for one in captured]


BIAS = torch.linspace(-3, 3, HEADS * ROWS * ROWS).view(1, HEADS, ROWS, ROWS).sin()


@pytest.mark.parametrize("mask", [causal(), BIAS, BIAS[0, 0]])
@pytest.mark.parametrize("is_sliced", [True, False])
def test_a_mask_of_all_layers_is_kept_once(
    make_tap: MakeTap, reconstruct: Reconstruct, mask: torch.Tensor, *, is_sliced: bool
) -> None:
    masks = capture(make_tap, reconstruct, lambda _: mask[..., :ROWS] if is_sliced else mask)

    assert len({id(kept) for kept in masks}) == 1


def test_two_masks_in_turns_are_kept_once_each(make_tap: MakeTap, reconstruct: Reconstruct) -> None:
    pair = (causal(0), causal(2))

    masks = capture(make_tap, reconstruct, lambda layer: pair[layer % 2])

    assert masks[0] is masks[2]
    assert masks[1] is masks[3]
    assert masks[0] is not masks[1]


def test_parts_of_one_tensor_are_told_apart(make_tap: MakeTap, reconstruct: Reconstruct) -> None:
    table = torch.randn(LAYERS, BATCH, HEADS, ROWS, ROWS)

    masks = capture(make_tap, reconstruct, lambda layer: table[layer])

    assert len({id(kept) for kept in masks}) == LAYERS


def test_a_mask_changed_in_place_is_another_one(
    make_tap: MakeTap, reconstruct: Reconstruct
) -> None:
    mask = BIAS.clone()

    masks = capture(make_tap, reconstruct, lambda _: mask.mul_(-1.5))

    assert len({id(kept) for kept in masks}) == LAYERS


def test_a_mask_at_the_address_of_one_that_is_gone_is_another_one(
    make_tap: MakeTap, reconstruct: Reconstruct
) -> None:
    memory = np.zeros((LAYERS, ROWS, ROWS), dtype=np.bool_)

    def same_address(layer: int) -> torch.Tensor:
        memory[0] = np.tri(ROWS, k=layer, dtype=np.bool_)
        return torch.from_numpy(memory[0])

    masks = capture(make_tap, reconstruct, same_address)

    assert len({id(kept) for kept in masks}) == LAYERS


def test_multihead_attention_shares_its_pair_of_masks(make_tap: MakeTap) -> None:
    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            layers = (nn.MultiheadAttention(8, 2, batch_first=True) for _ in range(3))
            self.layers = nn.ModuleList(layers)

        def forward(self, hidden: torch.Tensor, masks: list[dict[str, torch.Tensor]]) -> None:
            for layer, named in zip(self.layers, masks, strict=True):
                layer(hidden, hidden, hidden, need_weights=False, **named)

    # Floats, which nn.TransformerEncoder makes once: boolean ones each module makes anew.
    blocked, padded = torch.full((5, 5), -torch.inf).triu(1), torch.zeros(2, 5)
    both = {"attn_mask": blocked, "key_padding_mask": padded}
    model = Encoder()
    tap = make_tap(model)

    tap.arm()
    model(torch.randn(2, 5, 8), [both, both, {"key_padding_mask": padded}])
    first, second, third = (one.tensors["mask"] for one in tap.take())

    assert first is second
    assert third is not first
    assert not third.any()
