from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional

from trackside.capture.attention import AttentionTap

MakeTap = Callable[..., AttentionTap]
Hidden = torch.Tensor  # [batch, rows, width]


def layers_of(tap: AttentionTap) -> list[int]:
    return [captured.call.layer for captured in tap.take()]


def is_hooked() -> bool:
    return torch._C._len_torch_function_stack() > 0


def test_an_error_of_the_model_passes_and_the_next_forward_is_captured(
    make_tap: MakeTap, hidden: Hidden, model_class: type[nn.Module]
):
    class Failing(model_class):
        is_failing = True

        def forward(self, hidden: Hidden) -> Hidden:
            hidden = super().forward(hidden)
            if self.is_failing:
                raise KeyError("mine")
            return hidden

    model = Failing()
    tap = make_tap(model)

    tap.arm()
    for _ in range(2):
        with pytest.raises(KeyError, match="mine"):
            model(hidden)
        assert not is_hooked()
        assert not tap.has_captured

    model.is_failing = False
    model(hidden[:, :3])
    model(hidden)
    captured = tap.take()

    assert [one.call.layer for one in captured] == [0, 1, 2]
    assert {one.call.num_queries for one in captured} == {3}


def test_a_forward_inside_an_except_block_is_captured(
    make_tap: MakeTap, hidden: Hidden, model_class: type[nn.Module]
):
    model = model_class()
    tap = make_tap(model)

    tap.arm()
    try:
        torch.zeros(2).reshape(3)
    except RuntimeError:
        model(hidden)

    assert layers_of(tap) == [0, 1, 2]


@pytest.mark.parametrize("next_use", ["disarm", "take", "arm", "remove", "forward"])
def test_an_interrupted_forward_is_cleaned_up_when_the_tap_is_next_used(
    make_tap: MakeTap, hidden: Hidden, model_class: type[nn.Module], next_use: str
):
    class Interrupted(model_class):
        is_interrupted = True

        def forward(self, hidden: Hidden) -> Hidden:
            hidden = super().forward(hidden)
            if self.is_interrupted:
                raise KeyboardInterrupt
            return hidden

    model = Interrupted()
    tap = make_tap(model)
    tap.arm()
    with pytest.raises(KeyboardInterrupt):
        model(hidden)
    model.is_interrupted = False

    if next_use == "forward":
        model(hidden)
    else:
        getattr(tap, next_use)()

    assert not is_hooked()
    assert tap.take() == ()
    tap.install()
    tap.arm()
    model(hidden)
    assert layers_of(tap) == [0, 1, 2]


def test_what_runs_after_an_interrupted_forward_is_not_captured(
    make_tap: MakeTap, hidden: Hidden, model_class: type[nn.Module], block_class: type[nn.Module]
):
    class Interrupted(model_class):
        def forward(self, hidden: Hidden) -> Hidden:
            super().forward(hidden)
            raise KeyboardInterrupt

    model = Interrupted()
    tap = make_tap(model)
    tap.arm()
    with pytest.raises(KeyboardInterrupt):
        model(hidden)
    kept = tap._recording

    block_class()(hidden)

    assert kept is not None
    assert tap._recording is None
    assert tap.take() == ()
    assert not is_hooked()


def test_an_error_of_the_attention_call_passes_and_captures_nothing(
    make_tap: MakeTap, hidden: Hidden, block_class: type[nn.Module]
):
    class Careful(block_class):
        def forward(self, hidden: Hidden) -> Hidden:
            with pytest.raises(RuntimeError):
                functional.scaled_dot_product_attention(hidden, hidden[..., :3], hidden)
            return super().forward(hidden)

    model = Careful()
    tap = make_tap(model)

    tap.arm()
    model(hidden)

    assert layers_of(tap) == [0]


def test_an_error_of_ours_is_reported_and_the_call_runs_once(
    make_tap: MakeTap, hidden: Hidden, monkeypatch: pytest.MonkeyPatch, model_class: type[nn.Module]
):
    errors: list[tuple[str, BaseException]] = []
    model = model_class()
    expected = model(hidden)
    tap = make_tap(model, on_error=lambda *error: errors.append(error))
    monkeypatch.setattr("trackside.capture.recording.classify", lambda *_: 1 / 0)

    tap.arm()
    output = model(hidden)

    assert torch.equal(output, expected)
    assert [type(error) for _, error in errors] == [ZeroDivisionError] * 3
    assert {where for where, _ in errors} == {"attention tap, attention"}
    assert tap.take() == ()


def test_the_tap_may_be_removed_by_its_own_error(
    make_tap: MakeTap, hidden: Hidden, monkeypatch: pytest.MonkeyPatch, model_class: type[nn.Module]
):
    model = model_class()
    errors: list[str] = []

    def give_up(where: str, _: BaseException) -> None:
        errors.append(where)
        tap.remove()

    tap = make_tap(model, on_error=give_up)
    monkeypatch.setattr("trackside.capture.recording.classify", lambda *_: 1 / 0)

    tap.arm()
    model(hidden)

    assert len(errors) == 1
    assert not is_hooked()
    assert not model._forward_hooks
    assert not model._forward_pre_hooks


def test_removing_in_the_middle_of_a_forward_leaves_nothing(
    make_tap: MakeTap, hidden: Hidden, model_class: type[nn.Module]
):
    model = model_class()
    tap = make_tap(model)
    model.blocks[1].register_forward_hook(lambda *_: tap.remove())

    tap.arm()
    model(hidden)

    assert not is_hooked()
    assert not model._forward_hooks
    assert tap.take() == ()
    tap.arm()
    model(hidden)
    assert tap.take() == ()


def test_installing_and_removing_twice_is_fine(
    make_tap: MakeTap, hidden: Hidden, model_class: type[nn.Module]
):
    model = model_class()
    tap = make_tap(model)

    tap.install()
    assert len(model._forward_hooks) == 1
    tap.remove()
    tap.remove()
    tap.install()
    tap.arm()
    model(hidden)

    assert layers_of(tap) == [0, 1, 2]
