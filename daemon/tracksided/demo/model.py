"""A small GPT over bytes: the model of the demo, written like any other torch model."""

import torch
import torch.nn.functional as F  # noqa: N812 - the name everybody knows it by
from torch import Tensor, nn

VOCABULARY = 256  # one token per byte value
CONTEXT = 128  # bytes the model sees at once
WIDTH = 128
NUM_LAYERS = 4
NUM_HEADS = 4
ROTARY_BASE = 10_000.0  # as in the paper; plenty for 128 positions
INIT_STD = 0.02  # GPT-2's; also keeps the first logits of tied embeddings small


class Attention(nn.Module):
    """Causal self-attention with rotary positions."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH, bias=False)
        self.out = nn.Linear(WIDTH, WIDTH, bias=False)

    def forward(self, x: Tensor, angles: Tensor) -> Tensor:
        """Mix earlier positions into each position; x and the result are [batch, time, width]."""
        batch, time, _ = x.shape
        heads = self.qkv(x).view(batch, time, 3, NUM_HEADS, WIDTH // NUM_HEADS)
        q, k, v = heads.permute(2, 0, 3, 1, 4)  # each [batch, heads, time, head_dim]
        q, k = rotate(q, angles), rotate(k, angles)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        result: Tensor = self.out(mixed.transpose(1, 2).reshape(batch, time, WIDTH))
        return result


class Block(nn.Module):
    """Attention, then a feed-forward network, each on normalised input and added back."""

    def __init__(self) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(WIDTH)
        self.attention = Attention()
        self.mlp_norm = nn.RMSNorm(WIDTH)
        self.mlp = nn.Sequential(
            nn.Linear(WIDTH, 4 * WIDTH, bias=False),
            nn.GELU(),
            nn.Linear(4 * WIDTH, WIDTH, bias=False),
        )

    def forward(self, x: Tensor, angles: Tensor) -> Tensor:
        """Return the residual stream after this block, [batch, time, width]."""
        x = x + self.attention(self.attention_norm(x), angles)
        result: Tensor = x + self.mlp(self.mlp_norm(x))
        return result


class GPT(nn.Module):
    """Predicts the next byte from up to `CONTEXT` bytes."""

    angles: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(NUM_LAYERS))
        self.norm = nn.RMSNorm(WIDTH)
        self.register_buffer("angles", rotary_angles(), persistent=False)
        self.apply(_init_weights)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return logits [batch, time, vocabulary] for integer tokens [batch, time]."""
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x, self.angles[: tokens.shape[1]])
        return F.linear(self.norm(x), self.embedding.weight)  # input and output share one table


def next_byte_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the mean cross-entropy in nats per byte; targets are [batch, time]."""
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def rotary_angles() -> Tensor:
    """Return the angle of each position and pair of features, [context, head_dim / 2].

    Source: Su et al. 2021, arXiv:2104.09864.
    """
    head_dim = WIDTH // NUM_HEADS
    rates = ROTARY_BASE ** (-torch.arange(0, head_dim, 2) / head_dim)
    return torch.outer(torch.arange(CONTEXT), rates)


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Turn each pair of features (i, i + head_dim / 2) of [..., time, head_dim] by its angle."""
    first, second = x.chunk(2, dim=-1)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat((first * cos - second * sin, first * sin + second * cos), dim=-1)


def _init_weights(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=INIT_STD)
