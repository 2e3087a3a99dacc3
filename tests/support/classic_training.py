"""A training that calls a classic monitor, and its attention computed by hand."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

WIDTH, HEADS, VOCABULARY = 8, 2, 11


class Model(nn.Module):
    """One layer of self attention, of an encoder or, with a second input, across."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.query = nn.Linear(WIDTH, WIDTH)
        self.key = nn.Linear(WIDTH, WIDTH)
        self.norm = nn.BatchNorm1d(WIDTH)
        self.dropout = nn.Dropout(0.3)
        self.num_forwards = 0

    def project(self, enc: torch.Tensor, dec: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        split = (HEADS, WIDTH // HEADS)
        query = self.query(self.embedding(dec)).unflatten(-1, split).transpose(1, 2)
        key = self.key(self.embedding(enc)).unflatten(-1, split).transpose(1, 2)
        return query, key

    def forward(self, enc: torch.Tensor, dec: torch.Tensor | None = None) -> torch.Tensor:
        self.num_forwards += 1
        query, key = self.project(enc, enc if dec is None else dec)
        mixed = functional.scaled_dot_product_attention(query, key, key)
        mixed = self.norm(mixed.transpose(1, 2).flatten(2).transpose(1, 2))
        return self.dropout(mixed).square().mean()


def attention_by_hand(model: Model, enc: torch.Tensor, dec: torch.Tensor) -> np.ndarray:
    """Return [heads, queries, keys] of the first sample, in float64."""
    with torch.no_grad():
        query, key = (tensor[0].double().numpy() for tensor in model.project(enc, dec))
    logits = query @ key.transpose(0, 2, 1) / np.sqrt(WIDTH // HEADS)
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def captured(sample: Any) -> np.ndarray:
    """Return [heads, queries, keys] of the only attention of a record."""
    (kept,) = sample.attention
    logits = kept.query.astype(np.float64) @ kept.key.astype(np.float64).transpose(0, 2, 1)
    logits *= kept.call.scale
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


class Training:
    """A loop that calls a monitor as the guides do."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model = Model()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.5)
        self.expected: dict[int, np.ndarray] = {}
        self.losses: dict[int, float] = {}

    def run(
        self,
        monitor: Any,
        steps: range,
        *,
        is_logged_first: bool = False,
        epoch_of: Callable[[int], int | None] = lambda _: None,
        is_due: Callable[[int], bool] = lambda _: True,
    ) -> None:
        for step in steps:
            enc, dec = torch.randint(VOCABULARY, (3, 5)), torch.randint(VOCABULARY, (3, 4))
            # As training sees it: before the optimizer changes the weights.
            self.expected[step] = attention_by_hand(self.model, enc, dec)
            loss = self.model(enc, dec)
            self.losses[step] = loss.item()
            loss.backward()
            if is_logged_first and monitor is not None and is_due(step):
                monitor.log_attention(self.model, enc, dec, step, loss, epoch_of(step))
            self.optimizer.step()
            self.optimizer.zero_grad()
            if not is_logged_first and monitor is not None and is_due(step):
                monitor.log_attention(self.model, enc, dec, step, loss, epoch_of(step))
