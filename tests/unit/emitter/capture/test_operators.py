"""Kernels that are registered with torch are found by the name of their operator."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import nn

from trackside.capture.attention import AttentionTap
from trackside.capture.captured import CapturedAttention
from trackside.capture.recording import NO_ATTENTION
from trackside.capture.sources.catalog import OPERATOR_SOURCES
from trackside.capture.sources.softmax import inspect_softmax

MakeTap = Callable[..., AttentionTap]
Reconstruct = Callable[[CapturedAttention], np.ndarray]
Kernel = Callable[[torch.Tensor, int], torch.Tensor]
NAME = "trackside_test::rows"


@pytest.fixture(scope="module")
def library() -> Iterator[torch.library.Library]:
    library = torch.library.Library("trackside_test", "DEF")
    library.define("rows(Tensor logits, int dim) -> Tensor")
    library.impl("rows", torch.softmax, "CompositeImplicitAutograd")
    yield library
    library._destroy()


@pytest.fixture(params=["packet", "overload"])
def kernel(request: pytest.FixtureRequest, library: torch.library.Library) -> Kernel:
    del library
    packet = torch.ops.trackside_test.rows
    return packet if request.param == "packet" else packet.default


class Block(nn.Module):
    def __init__(self, kernel: Kernel) -> None:
        super().__init__()
        self.kernel = kernel

    def forward(self, logits: torch.Tensor) -> torch.Tensor:
        return self.kernel(logits * 3, -1)


def test_an_operator_that_is_listed_is_seen_once(
    make_tap: MakeTap, reconstruct: Reconstruct, kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(OPERATOR_SOURCES, NAME, inspect_softmax)
    model = nn.Sequential(Block(kernel))
    tap = make_tap(model)

    tap.arm()
    weights = model(torch.randn(2, 3, 4, 5, requires_grad=True))
    (captured,) = tap.take()

    expected = weights[0].detach().double().numpy()
    assert np.abs(reconstruct(captured) - expected).max() <= 1e-5


def test_an_operator_that_is_not_listed_is_no_attention(make_tap: MakeTap, kernel: Kernel) -> None:
    model = nn.Sequential(Block(kernel))
    tap = make_tap(model)

    tap.arm()
    model(torch.randn(2, 3, 4, 5, requires_grad=True))

    assert tap.take() == ()
    assert tap.notes == (NO_ATTENTION,)
