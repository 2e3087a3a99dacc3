from collections.abc import Callable
from typing import Any

import pytest
import torch
from tapped import is_hooked, layers_of
from torch import nn
from torch.utils.checkpoint import checkpoint

from trackside.capture.attention import AttentionTap

MakeTap = Callable[..., AttentionTap]
WIDTH = 8
Hidden = torch.Tensor  # [batch, rows, width]


def test_one_forward_is_captured_after_arming_and_only_one(
    make_tap: MakeTap, hidden: Hidden, model_class: type[nn.Module]
):
    model = model_class()
    tap = make_tap(model)

    model(hidden)
    assert tap.take() == ()

    tap.arm()
    model(hidden)
    model(torch.randn(2, 9, WIDTH))

    captured = tap.take()
    assert [one.call.module for one in captured] == ["blocks.0", "blocks.1", "blocks.2"]
    assert [one.call.layer for one in captured] == [0, 1, 2]
    assert {one.call.num_queries for one in captured} == {5}
    assert {one.call.stack for one in captured} == {"decoder"}
    assert tap.take() == ()


def test_disarming_drops_what_was_captured(
    make_tap: MakeTap, hidden: Hidden, model_class: type[nn.Module]
):
    model = model_class()
    tap = make_tap(model)

    tap.arm()
    model(hidden)
    tap.disarm()
    model(hidden)

    assert tap.take() == ()


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_evaluation_is_not_captured_and_leaves_the_tap_armed(
    make_tap: MakeTap, hidden: Hidden, context: Callable[[], Any], model_class: type[nn.Module]
):
    model = model_class()
    tap = make_tap(model)

    tap.arm()
    with context():
        model(hidden)
    assert tap.take() == ()

    model(hidden)
    assert layers_of(tap) == [0, 1, 2]


def test_a_part_without_gradients_is_not_captured(
    make_tap: MakeTap, hidden: Hidden, model_class: type[nn.Module]
):
    class Distilled(model_class):
        def forward(self, hidden: Hidden) -> Hidden:
            with torch.no_grad():
                hidden = self.blocks[0](hidden)
            return self.blocks[1](hidden)

    model = Distilled()
    tap = make_tap(model)

    tap.arm()
    model(hidden)

    assert [one.call.module for one in tap.take()] == ["blocks.1"]


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_recomputed_forwards_are_not_captured_again(
    make_tap: MakeTap, hidden: Hidden, model_class: type[nn.Module], *, use_reentrant: bool
):
    class Checkpointed(model_class):
        def forward(self, hidden: Hidden) -> Hidden:
            for block in self.blocks:
                hidden = checkpoint(block, hidden, use_reentrant=use_reentrant)
            return hidden

    model = Checkpointed()
    tap = make_tap(model)

    tap.arm()
    model(hidden.requires_grad_()).sum().backward()

    assert layers_of(tap) == [0, 1, 2]


def test_a_root_that_calls_itself_is_one_forward(
    make_tap: MakeTap, hidden: Hidden, model_class: type[nn.Module]
):
    class Recursive(model_class):
        depth = 0

        def forward(self, hidden: Hidden) -> Hidden:
            self.depth += 1
            if self.depth < 3:
                hidden = self(hidden)
            return super().forward(hidden)

    model = Recursive(1)
    tap = make_tap(model)

    tap.arm()
    model(hidden)

    assert layers_of(tap) == [0, 1, 2]
    assert not is_hooked()
