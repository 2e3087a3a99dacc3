import copy
import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tapped import is_hooked, layers_of
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from trackside.capture.attention import AttentionTap

MakeTap = Callable[..., AttentionTap]
WIDTH = 8
Hidden = torch.Tensor  # [batch, rows, width]


def test_two_models_are_tapped_apart(
    make_tap: MakeTap, hidden: Hidden, model_class: type[nn.Module]
):
    outer, inner = model_class(1), model_class(2)
    taps = make_tap(outer), make_tap(inner)

    for tap in taps:
        tap.arm()
    outer(inner(hidden))

    assert [layers_of(tap) for tap in taps] == [[0], [0, 1]]


def test_a_tapped_model_inside_a_tapped_model_is_seen_by_both(
    make_tap: MakeTap, hidden: Hidden, model_class: type[nn.Module], block_class: type[nn.Module]
):
    inner = model_class(2)
    outer = nn.Sequential(block_class(), inner)
    taps = make_tap(outer), make_tap(inner)

    for tap in taps:
        tap.arm()
    outer(hidden)

    paths = [[one.call.module for one in tap.take()] for tap in taps]
    assert paths == [["0", "1.blocks.0", "1.blocks.1"], ["blocks.0", "blocks.1"]]


@pytest.mark.filterwarnings("ignore:`torch.jit.trace:DeprecationWarning")
def test_a_trace_is_not_taken_for_a_training_forward(
    make_tap: MakeTap, hidden: Hidden, model_class: type[nn.Module]
):
    model = model_class(1)
    tap = make_tap(model)

    tap.arm()
    torch.jit.trace(model, hidden, check_trace=False)
    assert tap.take() == ()
    model(hidden)

    (captured,) = tap.take()
    assert type(captured.call.num_queries) is int


def test_modes_of_the_user_stay_and_do_not_see_us(
    make_tap: MakeTap, hidden: Hidden, model_class: type[nn.Module]
):
    class Counting(TorchFunctionMode):
        def __init__(self) -> None:
            super().__init__()
            self.calls: list[object] = []

        def __torch_function__(
            self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            self.calls.append(func)
            return func(*args, **(kwargs or {}))

    class Dispatching(TorchDispatchMode):
        def __init__(self) -> None:
            super().__init__()
            self.calls: list[object] = []

        def __torch_dispatch__(
            self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            self.calls.append(func)
            return func(*args, **(kwargs or {}))

    model = model_class()
    tap = make_tap(model)
    seen = []
    for is_armed in (False, True):
        if is_armed:
            tap.arm()
        with torch.device("cpu"), Counting() as counting, Dispatching() as dispatching:
            model(hidden)
        seen.append((counting.calls, dispatching.calls))
        assert not is_hooked()

    assert layers_of(tap) == [0, 1, 2]
    assert seen[0] == seen[1]
    assert seen[0][0]
    assert seen[0][1]


def test_a_mode_entered_by_another_hook_stays_where_it_is(
    make_tap: MakeTap, hidden: Hidden, model_class: type[nn.Module]
):
    class Passing(TorchFunctionMode):
        def __torch_function__(
            self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            return func(*args, **(kwargs or {}))

    model, mode = model_class(), Passing()
    tap = make_tap(model)
    handles = (
        model.register_forward_pre_hook(lambda *_: mode.__enter__() and None),
        model.register_forward_hook(lambda *_: mode.__exit__(None, None, None)),
    )

    tap.arm()
    model(hidden)

    assert layers_of(tap) == [0, 1, 2]
    assert not is_hooked()
    for handle in handles:
        handle.remove()


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_functional_transforms_pass_through_with_a_note(
    make_tap: MakeTap, hidden: Hidden, model_class: type[nn.Module]
):
    class Mapped(model_class):
        def forward(self, hidden: Hidden) -> Hidden:
            return torch.func.vmap(self.blocks[0])(hidden.unsqueeze(0))

    model = Mapped(1)
    expected = model(hidden)
    tap = make_tap(model)

    tap.arm()

    assert torch.equal(model(hidden), expected)
    assert tap.take() == ()
    assert tap.notes == ("attention inside a functional transform (torch.func, vmap)",)


def test_tensor_subclasses_pass_through_with_a_note(
    make_tap: MakeTap, block_class: type[nn.Module]
):
    class Tagged(torch.Tensor):
        pass

    model = block_class()
    tap = make_tap(model)

    tap.arm()
    model(torch.randn(2, 5, WIDTH).as_subclass(Tagged))

    assert tap.take() == ()
    assert tap.notes == ("scaled_dot_product_attention was called on a Tagged",)


def test_copies_and_files_of_a_model_carry_no_tap(
    make_tap: MakeTap, hidden: Hidden, model_class: type[nn.Module]
):
    model = model_class()
    tap = make_tap(model)
    file = io.BytesIO()

    tap.arm()
    torch.save(model, file)
    file.seek(0)
    for other in (copy.deepcopy(model), torch.load(file, weights_only=False)):
        assert torch.equal(other(hidden), model.forward(hidden))
    assert tap.take() == ()

    model(hidden)
    assert layers_of(tap) == [0, 1, 2]
