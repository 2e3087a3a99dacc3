"""Softmax over four dimensions that is attention, and softmax over four that is none."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from trackside.capture.attention import AttentionTap
from trackside.capture.recording import NO_ATTENTION

MakeTap = Callable[..., AttentionTap]

WIDTH, HEADS, SIZE = 12, 3, 4


class Mixer(nn.Module):
    """Works out [batch, heads, queries, keys] of [batch, rows, WIDTH], and calls softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Linear(WIDTH, WIDTH)
        self.key = nn.Linear(WIDTH, WIDTH)
        self.score = nn.Linear(SIZE, 1)
        self.mix = nn.Linear(HEADS, HEADS)
        self.streams = nn.Linear(WIDTH, 16)
        self.pixels = nn.Conv1d(WIDTH, WIDTH, 1)
        self.scale = nn.Parameter(torch.ones(()))
        self.bias = nn.Parameter(torch.zeros(1, 1, 1, 1))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.logits(hidden).softmax(-1)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError

    def split(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden.unflatten(-1, (HEADS, SIZE)).transpose(1, 2)  # [batch, heads, rows, size]

    def heads_of(self, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.split(self.query(hidden)), self.split(self.key(hidden))


class Product(Mixer):
    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        query, key = self.heads_of(hidden)
        mask = torch.ones(hidden.shape[1], hidden.shape[1], dtype=torch.bool).triu(1)
        return (query @ key.mT / 2 * self.scale + self.bias).masked_fill(mask, -1e9)


class Einsum(Mixer):
    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        query, key = self.heads_of(hidden)
        return 2 * torch.tanh(torch.einsum("bhqd,bhkd->bhqk", query, key) / 2)


class Distance(Mixer):
    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return -torch.cdist(*self.heads_of(hidden))


class SumOfPairs(Mixer):
    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        query, key = self.heads_of(hidden)
        return (query[:, :, :, None] * key[:, :, None]).sum(-1)


class Additive(Mixer):
    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        query, key = self.heads_of(hidden)
        return self.score(torch.tanh(query[:, :, :, None] + key[:, :, None])).squeeze(-1)


class TalkingHeads(Mixer):
    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.mix(Product.logits(self, hidden).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class FrozenProduct(Mixer):
    """Queries and keys are frozen: the graph holds the bias alone."""

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            product = Product.logits(self, hidden)
        return product + self.bias


class HyperConnection(Mixer):
    """Weights that mix four copies of each position, as in DeepSeek-V4."""

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.streams(hidden).unflatten(-1, (4, 4)) * self.scale + self.bias


class FrozenHyperConnection(HyperConnection):
    def __init__(self) -> None:
        super().__init__()
        self.scale.requires_grad_(requires_grad=False)
        self.bias.requires_grad_(requires_grad=False)


class LinearAttention(Mixer):
    """Keys are a distribution over positions for each feature: no query meets them here."""

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.split(self.key(hidden)).mT


class LinearAttentionOfPixels(Mixer):
    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.pixels(hidden.mT).unflatten(1, (HEADS, SIZE))


@pytest.mark.parametrize(
    "made_by", [Product, Einsum, Distance, SumOfPairs, Additive, TalkingHeads, FrozenProduct]
)
def test_logits_that_pair_queries_with_keys_are_attention(make_tap: MakeTap, made_by: type[Mixer]):
    model, hidden = made_by(), torch.randn(2, 5, WIDTH)
    tap = make_tap(model)

    tap.arm()
    model(hidden)
    (captured,) = tap.take()

    assert torch.equal(captured.tensors["logits"], model.logits(hidden)[0].detach())


@pytest.mark.parametrize(
    "made_by",
    [HyperConnection, FrozenHyperConnection, LinearAttention, LinearAttentionOfPixels],
)
def test_logits_that_linear_layers_give_are_none(make_tap: MakeTap, made_by: type[Mixer]):
    model = made_by()
    tap = make_tap(model)

    tap.arm()
    model(torch.randn(2, 5, WIDTH))

    assert tap.take() == ()
    assert tap.notes == (NO_ATTENTION,)
