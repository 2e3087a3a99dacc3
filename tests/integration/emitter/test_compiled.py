"""Compiled models: attention is captured, and nothing is compiled that was not before."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch._dynamo
from torch import nn
from torch._dynamo.utils import counters
from torch.nn import functional as F  # noqa: N812 - its usual name

from trackside.session import attach

pytestmark = [
    pytest.mark.integration,
    # Tracing a block asks its input for a gradient, with and without us.
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning"),
]


class _Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(8, 24)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        query, key, value = self.qkv(x).view(*x.shape[:2], 3, 2, 4).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        return x + mixed.transpose(1, 2).reshape(x.shape)


def _compile(model: nn.Module, how: str) -> nn.Module:
    if how == "wrapped":
        return torch.compile(model, backend="eager")  # type: ignore[no-any-return] # a module
    for part in [model] if how == "in place" else list(model.children()):
        part.compile(backend="eager")
    return model


def _train(how: str, order: str, every: int | None) -> dict[str, int]:
    torch._dynamo.reset()
    counters.clear()
    torch.manual_seed(0)
    inner: nn.Module = nn.Sequential(_Block(), _Block(), nn.Linear(8, 3))
    optimizer = torch.optim.AdamW(inner.parameters(), lr=1e-3)
    model = _compile(inner, how) if order == "after" else inner
    keywords: Any = {"every": every or 1, "autostart": False, "ring_bytes": 1 << 20}
    session = attach(model, optimizer, **keywords) if every else None
    model = _compile(inner, how) if order == "before" else model
    for _ in range(6):
        optimizer.zero_grad()
        model(torch.randn(2, 6, 8)).square().mean().backward()
        nn.utils.clip_grad_norm_(inner.parameters(), 0.1)
        optimizer.step()
    if session is not None:
        session.close()
    assert not counters["graph_break"]
    return dict(counters["stats"])


@pytest.mark.parametrize("order", ["before", "after"])
@pytest.mark.parametrize("how", ["wrapped", "in place", "per block"])
def test_sampling_compiles_nothing_more_and_captures_attention(
    receive_all: Callable[[], dict[int, Any]], how: str, order: str
) -> None:
    bare = _train(how, order, None)

    watched = _train(how, order, 3)

    (received,) = receive_all().values()
    # In place, torch compiles a bare Sequential block by block, and one with hooks as a whole.
    assert watched["unique_graphs"] <= bare["unique_graphs"]
    assert [sample.step.step for sample in received.samples] == [3, 6]
    for sample in received.samples:
        assert [captured.call.layer for captured in sample.attention] == [0, 1]
        assert sample.step.norm_before_clip > 0


def test_the_users_stance_comes_back(receive_all: Callable[[], dict[int, Any]]) -> None:
    with torch.compiler.set_stance("eager_on_recompile"):
        _train("wrapped", "after", 2)
        assert torch._dynamo.eval_frame._stance.stance == "eager_on_recompile"

    assert len(receive_all()) == 1


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, when it traces SGD
def test_a_step_inside_compiled_code_is_neither_seen_nor_disturbed(
    receive_all: Callable[[], dict[int, Any]],
) -> None:
    torch._dynamo.reset()
    counters.clear()
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    step = torch.compile(optimizer.step, backend="eager")

    with attach(model, optimizer, every=1, autostart=False, ring_bytes=1 << 14) as session:
        for _ in range(4):
            optimizer.zero_grad()
            model(torch.ones(2)).sum().backward()
            step()

    assert session.step == 0
    assert counters["stats"]["unique_graphs"] <= 1
    assert receive_all()[0].samples == ()
