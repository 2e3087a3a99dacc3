"""Functions of torch that are wrapped while somebody listens."""

import types
from collections.abc import Mapping

import pytest
import torch
from torch import nn

from trackside.capture.clipping import ClipWatch
from trackside.capture.gradients import strip_wrappers
from trackside.capture.owned import OwnParameters
from trackside.capture.scalars import LocalClock, LossWatch, StepClock, as_number
from trackside.hooks import FunctionHook, backward_hook, clip_hook


def _module() -> types.ModuleType:
    module = types.ModuleType("m")
    vars(module)["double"] = lambda x: 2 * x
    vars(module)["alias"] = vars(module)["double"]
    return module


def test_a_function_is_wrapped_while_somebody_listens_and_put_back() -> None:
    module = _module()
    original = module.double
    hook = FunctionHook(((module, "double"), (module, "alias")))
    seen: list[tuple[object, ...]] = []

    def first(args: tuple[object, ...], kwargs: Mapping[str, object]) -> None:
        seen.append(("first", *args, *kwargs.items()))

    def second(args: tuple[object, ...], kwargs: Mapping[str, object]) -> None:
        seen.append(("second", *args, *kwargs.items()))

    hook.add(first)
    hook.add(second)
    assert (module.double(2), module.alias(x=3)) == (4, 6)
    hook.remove(first)
    assert module.alias(1) == 2
    hook.remove(second)
    hook.remove(second)

    assert seen == [("first", 2), ("second", 2), ("first", ("x", 3)), ("second", ("x", 3)),
                    ("second", 1)]  # fmt: skip
    assert module.double is original
    assert module.alias is original


def test_somebody_elses_wrapper_stays() -> None:
    module = _module()
    hook = FunctionHook(((module, "double"),))
    seen: list[object] = []

    def observe(args: tuple[object, ...], kwargs: Mapping[str, object]) -> None:
        del kwargs
        seen.append(args)

    hook.add(observe)
    ours = module.double
    module.double = lambda x: ours(x) + 1
    hook.remove(observe)
    assert module.double(1) == 3
    hook.add(observe)
    assert module.double(2) == 5

    assert seen == [(2,)]


def test_calls_from_within_a_call_are_not_told() -> None:
    module = types.ModuleType("m")
    module.count = lambda n: n and 1 + module.count(n - 1)
    hook = FunctionHook(((module, "count"),))
    seen: list[object] = []

    def observe(args: tuple[object, ...], kwargs: Mapping[str, object]) -> None:
        del kwargs
        seen.append(args)

    hook.add(observe)

    assert module.count(3) == 3
    assert seen == [(3,)]


def test_backward_is_heard_however_it_is_called() -> None:
    watch = LossWatch()
    watch.is_sampling = True
    leaf = torch.ones(2, requires_grad=True)
    backward_hook.add(watch.on_backward)
    try:
        (leaf.sum() * 2).backward()
        torch.autograd.backward(leaf.sum() * 4)
        torch.autograd.backward([leaf.sum() * 6])
        leaf.backward(torch.ones(2))  # not a loss
        leaf.sum().backward(torch.tensor(3.0))  # its gradient comes from outside
        with torch.device("cpu"):
            (leaf.sum() * 8).backward()
    finally:
        backward_hook.remove(watch.on_backward)

    assert watch.micro_batches == 4
    assert watch.of_step(None) == 10.0
    assert watch.of_step(2.0) == 5.0


def test_a_reentrant_checkpoint_is_one_backward() -> None:
    watch = LossWatch()
    leaf = torch.ones(1, requires_grad=True)
    backward_hook.add(watch.on_backward)
    try:
        torch.utils.checkpoint.checkpoint(torch.exp, leaf, use_reentrant=True).sum().backward()
    finally:
        backward_hook.remove(watch.on_backward)

    assert watch.micro_batches == 1


def test_clipping_is_heard_however_it_is_called() -> None:
    model = nn.Linear(2, 2)
    watch = ClipWatch(OwnParameters(model.parameters), lambda: True)
    early = nn.utils.clip_grad_norm_
    clip_hook.add(watch.on_clip)
    try:
        for clip in (early, nn.utils.clip_grad_norm_):
            model(torch.ones(2)).sum().backward()
            expected = clip(model.parameters(), 0.5)
            event = watch.event()
            watch.end_step()
            assert event is not None
            assert (event.norm, event.max_norm) == (expected.item(), 0.5)
        total = nn.utils.get_total_norm([p.grad for p in model.parameters()])
        nn.utils.clip_grads_with_norm_(model.parameters(), max_norm=9.0, total_norm=total)
        event = watch.event()
    finally:
        clip_hook.remove(watch.on_clip)

    assert event is not None
    assert (event.norm, event.max_norm) == (total.item(), 9.0)
    assert watch.take_tally().num_clipped == 2
    assert watch.take_tally().num_clipped == 0


def test_parts_that_are_clipped_by_themselves_are_put_together() -> None:
    parameter = nn.Parameter(torch.ones(1))
    watch = ClipWatch(OwnParameters(lambda: [parameter]), lambda: True)
    for norm, limit in ((3.0, 5.0), (4.0, 1.0)):
        watch.on_clip(([parameter], limit, torch.tensor(norm)), {})

    event = watch.event()
    watch.end_step()

    assert event is not None
    assert (event.norm, event.max_norm) == (5.0, 1.0)
    assert watch.take_tally().num_clipped == 1


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1, 1.0),
        (True, 1.0),
        ("2.5", 2.5),
        (torch.tensor([3.0], requires_grad=True), 3.0),
        (torch.zeros(2), None),
        (None, None),
        ([1], None),
        (10**400, None),
    ],
)
def test_what_counts_as_a_number(value: object, expected: float | None) -> None:
    assert as_number(value) == expected


def test_the_clock_averages_since_the_last_lap() -> None:
    clock = StepClock()

    assert clock.lap(10.0, 1) is None
    assert clock.lap(16.0, 4) == 2.0
    assert clock.lap(16.5, 5) == 0.5
    assert clock.lap(17.0, 5) is None


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("weight", "weight"),
        ("module._orig_mod.a.weight", "a.weight"),
        ("a._orig_mod.b._fsdp_wrapped_module.c", "a.b.c"),
        ("a._checkpoint_wrapped_module.module.b", "a.b"),
        ("module.module.a.module.module.b", "a.b"),
        ("a.module", "a.module"),
    ],
)
def test_names_lose_what_wrappers_put_in(name: str, expected: str) -> None:
    assert strip_wrappers(name) == expected


def test_local_clock_runs_from_arming_to_the_first_backward() -> None:
    clock = LocalClock()
    clock.arm(10.0)
    clock.on_backward(10.25)
    clock.on_backward(11.0)  # another micro-batch

    assert clock.take() == 0.25
    assert clock.take() is None
    clock.on_backward(12.0)
    assert clock.take() is None
    clock.arm(13.0)
    assert clock.take() is None  # no backward was seen
