"""Training with a tap armed at every step is bit for bit the training without one."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
)

from trackside.capture.attention import AttentionTap

pytestmark = pytest.mark.integration

STEPS, BATCH, ROWS, WIDTH = 4, 4, 6, 16


class HandWritten(nn.Module):
    """Two layers: raw SDPA with dropout, then a softmax written out."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(WIDTH, 3 * WIDTH)
        self.second = nn.Linear(WIDTH, 3 * WIDTH)
        self.dropout = nn.Dropout(0.2)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        query, key, value = self.split(self.first, hidden)
        mixed = functional.scaled_dot_product_attention(
            query, key, value, dropout_p=0.1, is_causal=True
        )
        hidden = hidden + mixed.transpose(1, 2).flatten(2)
        query, key, value = self.split(self.second, hidden)
        weights = (query @ key.transpose(-2, -1) / 2).softmax(-1)
        return hidden + (self.dropout(weights) @ value).transpose(1, 2).flatten(2)

    @staticmethod
    def split(project: nn.Module, hidden: torch.Tensor) -> tuple[torch.Tensor, ...]:
        parts = project(hidden).chunk(3, -1)
        return tuple(part.unflatten(-1, (4, -1)).transpose(1, 2) for part in parts)


class Selective(nn.Module):
    """A checkpoint that keeps some results and computes the others again."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, 4, dropout=0.1, batch_first=True)
        self.inner = HandWritten()

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        def block(hidden: torch.Tensor) -> torch.Tensor:
            return self.inner(self.attention(hidden, hidden, hidden, need_weights=False)[0])

        def policy(_: Any, op: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
            del args, kwargs
            is_kept = op in {torch.ops.aten.addmm.default, torch.ops.aten.clone.default}
            return CheckpointPolicy.MUST_SAVE if is_kept else CheckpointPolicy.PREFER_RECOMPUTE

        return checkpoint(
            block,
            hidden,
            use_reentrant=False,
            context_fn=lambda: create_selective_checkpoint_contexts(policy),
        )


class Checkpointed(nn.Module):
    def __init__(self, *, use_reentrant: bool) -> None:
        super().__init__()
        self.inner = nn.ModuleList([HandWritten(), HandWritten()])
        self.use_reentrant = use_reentrant

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        for layer in self.inner:
            hidden = checkpoint(layer, hidden, use_reentrant=self.use_reentrant)
        return hidden


def encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(WIDTH, 4, 32, dropout=0.2, batch_first=True)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


MODELS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "hand-written": (HandWritten, 2),
    "nn.TransformerEncoder": (encoder, 2),
    "reentrant checkpoint": (lambda: Checkpointed(use_reentrant=True), 4),
    "checkpoint": (lambda: Checkpointed(use_reentrant=False), 4),
    "selective checkpoint": (Selective, 3),
}


@dataclass
class Outcome:
    losses: list[torch.Tensor] = field(default_factory=list)
    weights: dict[str, torch.Tensor] = field(default_factory=dict)
    random_state: torch.Tensor | None = None
    num_captured: list[int] = field(default_factory=list)


def train(
    build: Callable[[], nn.Module], *, is_tapped: bool, dtype: torch.dtype, num_micro: int
) -> Outcome:
    """Train for some steps; the tap, if any, is armed before each."""
    torch.manual_seed(11)
    model = build()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    errors: list[tuple[str, BaseException]] = []
    tap = AttentionTap(
        model,
        layers=None,
        heads="all",
        sample=1,
        max_queries=4,
        on_error=lambda *error: errors.append(error),
    )
    if is_tapped:
        tap.install()
    outcome = Outcome()
    for _ in range(STEPS):
        tap.arm()
        for _ in range(num_micro):
            hidden = torch.randn(BATCH, ROWS, WIDTH, requires_grad=True)
            with torch.autocast("cpu", dtype=dtype, enabled=dtype is not torch.float32):
                loss = model(hidden).float().square().mean()
            loss.backward()
            outcome.losses.append(loss.detach())
        outcome.num_captured.append(len(tap.take()))
        optimizer.step()
        optimizer.zero_grad()
    tap.remove()
    assert errors == []
    outcome.weights = model.state_dict()
    outcome.random_state = torch.get_rng_state()
    return outcome


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", MODELS)
def test_training_is_unchanged(name: str, dtype: torch.dtype) -> None:
    build, num_layers = MODELS[name]

    plain = train(build, is_tapped=False, dtype=dtype, num_micro=2)
    tapped = train(build, is_tapped=True, dtype=dtype, num_micro=2)

    assert tapped.num_captured == [num_layers] * STEPS  # once, from the first micro-batch
    assert plain.num_captured == [0] * STEPS
    assert torch.equal(torch.stack(plain.losses), torch.stack(tapped.losses))
    assert plain.weights.keys() == tapped.weights.keys()
    for parameter, expected in plain.weights.items():
        assert torch.equal(tapped.weights[parameter], expected), parameter
    assert plain.random_state is not None
    assert tapped.random_state is not None
    assert torch.equal(plain.random_state, tapped.random_state)
    assert len(set(map(float, plain.losses))) == len(plain.losses)  # it did train
