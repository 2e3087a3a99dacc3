import copy
import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from trackside.capture.attention import AttentionTap

MakeTap = Callable[..., AttentionTap]
WIDTH, HEADS = 8, 2
Hidden = torch.Tensor  # [batch, rows, width]


class Block(nn.Module):
    """Causal attention of two heads, and an end in place that spoils what was captured by view."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(WIDTH, 3 * WIDTH)

    def forward(self, hidden: Hidden) -> Hidden:
        query, key, value = (
            part.unflatten(-1, (HEADS, -1)).transpose(1, 2)
            for part in self.project(hidden).chunk(3, -1)
        )
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        return hidden + mixed.transpose(1, 2).flatten(2)


class Model(nn.Module):
    def __init__(self, num_layers: int = 3) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(num_layers))

    def forward(self, hidden: Hidden) -> Hidden:
        for block in self.blocks:
            hidden = block(hidden)
        return hidden


@pytest.fixture
def hidden() -> Hidden:
    return torch.randn(2, 5, WIDTH)


def layers_of(tap: AttentionTap) -> list[int]:
    return [captured.call.layer for captured in tap.take()]


def is_hooked() -> bool:
    return torch._C._len_torch_function_stack() > 0


def test_one_forward_is_captured_after_arming_and_only_one(make_tap: MakeTap, hidden: Hidden):
    model = Model()
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


def test_disarming_drops_what_was_captured(make_tap: MakeTap, hidden: Hidden):
    model = Model()
    tap = make_tap(model)

    tap.arm()
    model(hidden)
    tap.disarm()
    model(hidden)

    assert tap.take() == ()


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_evaluation_is_not_captured_and_leaves_the_tap_armed(
    make_tap: MakeTap, hidden: Hidden, context: Callable[[], Any]
):
    model = Model()
    tap = make_tap(model)

    tap.arm()
    with context():
        model(hidden)
    assert tap.take() == ()

    model(hidden)
    assert layers_of(tap) == [0, 1, 2]


def test_a_part_without_gradients_is_not_captured(make_tap: MakeTap, hidden: Hidden):
    class Distilled(Model):
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
    make_tap: MakeTap, hidden: Hidden, *, use_reentrant: bool
):
    class Checkpointed(Model):
        def forward(self, hidden: Hidden) -> Hidden:
            for block in self.blocks:
                hidden = checkpoint(block, hidden, use_reentrant=use_reentrant)
            return hidden

    model = Checkpointed()
    tap = make_tap(model)

    tap.arm()
    model(hidden.requires_grad_()).sum().backward()

    assert layers_of(tap) == [0, 1, 2]


def test_an_error_of_the_model_passes_and_disarms(make_tap: MakeTap, hidden: Hidden):
    class Failing(Model):
        def forward(self, hidden: Hidden) -> Hidden:
            super().forward(hidden)
            raise KeyError("mine")

    model = Failing()
    tap = make_tap(model)

    tap.arm()
    with pytest.raises(KeyError, match="mine"):
        model(hidden)

    assert not is_hooked()
    with pytest.raises(KeyError, match="mine"):
        model(hidden)
    assert tap.take() == ()


def test_a_forward_inside_an_except_block_is_captured(make_tap: MakeTap, hidden: Hidden):
    model = Model()
    tap = make_tap(model)

    tap.arm()
    try:
        torch.zeros(2).reshape(3)
    except RuntimeError:
        model(hidden)

    assert layers_of(tap) == [0, 1, 2]


def test_an_interrupted_forward_is_cleaned_up_when_the_tap_is_next_used(
    make_tap: MakeTap, hidden: Hidden
):
    class Interrupted(Model):
        def forward(self, hidden: Hidden) -> Hidden:
            super().forward(hidden)
            raise KeyboardInterrupt

    model = Interrupted()
    tap = make_tap(model)
    tap.arm()
    with pytest.raises(KeyboardInterrupt):
        model(hidden)

    tap.disarm()

    assert not is_hooked()
    assert tap.take() == ()


def test_an_error_of_the_attention_call_passes_and_captures_nothing(
    make_tap: MakeTap, hidden: Hidden
):
    class Careful(Block):
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
    make_tap: MakeTap, hidden: Hidden, monkeypatch: pytest.MonkeyPatch
):
    errors: list[tuple[str, BaseException]] = []
    model = Model()
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
    make_tap: MakeTap, hidden: Hidden, monkeypatch: pytest.MonkeyPatch
):
    model = Model()
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


def test_removing_in_the_middle_of_a_forward_leaves_nothing(make_tap: MakeTap, hidden: Hidden):
    model = Model()
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


def test_installing_and_removing_twice_is_fine(make_tap: MakeTap, hidden: Hidden):
    model = Model()
    tap = make_tap(model)

    tap.install()
    assert len(model._forward_hooks) == 1
    tap.remove()
    tap.remove()
    tap.install()
    tap.arm()
    model(hidden)

    assert layers_of(tap) == [0, 1, 2]


def test_two_models_are_tapped_apart(make_tap: MakeTap, hidden: Hidden):
    outer, inner = Model(1), Model(2)
    taps = make_tap(outer), make_tap(inner)

    for tap in taps:
        tap.arm()
    outer(inner(hidden))

    assert [layers_of(tap) for tap in taps] == [[0], [0, 1]]


def test_a_tapped_model_inside_a_tapped_model_is_seen_by_both(make_tap: MakeTap, hidden: Hidden):
    inner = Model(2)
    outer = nn.Sequential(Block(), inner)
    taps = make_tap(outer), make_tap(inner)

    for tap in taps:
        tap.arm()
    outer(hidden)

    paths = [[one.call.module for one in tap.take()] for tap in taps]
    assert paths == [["0", "1.blocks.0", "1.blocks.1"], ["blocks.0", "blocks.1"]]


def test_a_root_that_calls_itself_is_one_forward(make_tap: MakeTap, hidden: Hidden):
    class Recursive(Model):
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


def test_modes_of_the_user_stay_and_do_not_see_us(make_tap: MakeTap, hidden: Hidden):
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

    model = Model()
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


def test_a_mode_entered_by_another_hook_stays_where_it_is(make_tap: MakeTap, hidden: Hidden):
    class Passing(TorchFunctionMode):
        def __torch_function__(
            self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            return func(*args, **(kwargs or {}))

    model, mode = Model(), Passing()
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


def test_slices_are_copies(make_tap: MakeTap):
    class Spoiling(nn.Module):
        def forward(self, query: Hidden) -> Hidden:
            mixed = functional.scaled_dot_product_attention(query, query, query)
            query.zero_()
            return mixed

    model, query = Spoiling(), torch.randn(2, HEADS, 5, 4)
    expected = query[0].clone()
    tap = make_tap(model)

    tap.arm()
    model(query)
    (captured,) = tap.take()

    assert torch.equal(captured.tensors["query"], expected)
    assert not captured.tensors["query"].requires_grad
    stored = captured.tensors["query"].untyped_storage().nbytes()
    assert stored == expected.nbytes


@pytest.mark.parametrize(
    ("layers", "expected"),
    [(None, [0, 1, 2]), ((0, -1), [0, 2]), ((1,), [1]), ((-1, 2), [2]), ((), []), ((0, 7), [0])],
)
def test_wanted_layers_are_kept_in_every_forward(
    make_tap: MakeTap, hidden: Hidden, layers: tuple[int, ...] | None, expected: list[int]
):
    model = Model()
    tap = make_tap(model, layers=layers)

    for _ in range(2):
        tap.arm()
        model(hidden)
        assert layers_of(tap) == expected

    missing = ("no layer 7 among 3 of decoder self_attention",) if layers == (0, 7) else ()
    assert tap.notes == missing


def test_layers_that_are_known_to_be_unwanted_are_not_copied(
    make_tap: MakeTap, hidden: Hidden, monkeypatch: pytest.MonkeyPatch
):
    copied: list[torch.Tensor] = []

    def count(tensor: torch.Tensor) -> torch.Tensor:
        copied.append(tensor)
        return tensor.clone()

    monkeypatch.setattr("trackside.capture.recording._own", count)
    model = Model()
    tap = make_tap(model, layers=(0, -1))

    for expected in (6, 4):  # query and key of three layers, then of two
        copied.clear()
        tap.arm()
        model(hidden)
        assert layers_of(tap) == [0, 2]
        assert len(copied) == expected


def test_a_model_that_grows_keeps_its_last_layer(make_tap: MakeTap, hidden: Hidden):
    model = Model(2)
    tap = make_tap(model, layers=(-1,))

    for num_layers in (2, 3):
        tap.arm()
        model(hidden)
        assert layers_of(tap) == [num_layers - 1]
        model.blocks.append(Block())


def test_a_sample_outside_of_the_batch_is_the_last_one_with_a_note(
    make_tap: MakeTap, hidden: Hidden
):
    model = Model(1)
    taps = make_tap(model, sample=7), make_tap(model, sample=1)

    for tap in taps:
        tap.arm()
    model(hidden)

    (first,), (second,) = (tap.take() for tap in taps)
    assert torch.equal(first.tensors["query"], second.tensors["query"])
    assert taps[0].notes == ("no sample 7 in a batch of 2: the last one is taken",)


def test_heads_that_do_not_exist_are_noted_once(make_tap: MakeTap, hidden: Hidden):
    model = Model(2)
    tap = make_tap(model, heads=(1, 5, -1))

    tap.arm()
    model(hidden)

    assert [one.call.heads for one in tap.take()] == [(1,), (1,)]
    assert tap.notes == ("no head 5 among 2",)


def test_average_sends_all_heads(make_tap: MakeTap, hidden: Hidden):
    model = Model(1)
    tap = make_tap(model, heads="average")

    tap.arm()
    model(hidden)

    assert tap.take()[0].call.heads == (0, 1)


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_functional_transforms_pass_through_with_a_note(make_tap: MakeTap, hidden: Hidden):
    class Mapped(Model):
        def forward(self, hidden: Hidden) -> Hidden:
            return torch.func.vmap(self.blocks[0])(hidden.unsqueeze(0))

    model = Mapped(1)
    expected = model(hidden)
    tap = make_tap(model)

    tap.arm()

    assert torch.equal(model(hidden), expected)
    assert tap.take() == ()
    assert tap.notes == ("attention inside a functional transform (torch.func, vmap)",)


def test_tensor_subclasses_pass_through_with_a_note(make_tap: MakeTap):
    class Tagged(torch.Tensor):
        pass

    model = Block()
    tap = make_tap(model)

    tap.arm()
    model(torch.randn(2, 5, WIDTH).as_subclass(Tagged))

    assert tap.take() == ()
    assert tap.notes == ("scaled_dot_product_attention was called on a Tagged",)


def test_copies_and_files_of_a_model_carry_no_tap(make_tap: MakeTap, hidden: Hidden):
    model = Model()
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


def test_encoder_decoder_models_have_three_kinds_of_layers(make_tap: MakeTap):
    model = nn.Transformer(WIDTH, HEADS, 2, 2, 16, batch_first=True)
    tap = make_tap(model, layers=(-1,))
    source, target = torch.randn(2, 5, WIDTH), torch.randn(2, 5, WIDTH)

    tap.arm()
    model(source, target, tgt_mask=nn.Transformer.generate_square_subsequent_mask(5))

    found = {(one.call.stack, one.call.type): one.call for one in tap.take()}
    modules = {group: call.module for group, call in found.items()}
    assert modules == {
        ("encoder", "self_attention"): "encoder.layers.1.self_attn",
        ("decoder", "self_attention"): "decoder.layers.1.self_attn",
        ("decoder", "cross_attention"): "decoder.layers.1.multihead_attn",
    }
    assert {call.layer for call in found.values()} == {1}
    assert [call.is_causal for call in found.values()] == [False, True, False]


def test_an_encoder_layer_with_a_causal_mask_is_a_decoder(make_tap: MakeTap):
    layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 16, batch_first=True)
    model = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
    tap = make_tap(model)

    tap.arm()
    model(torch.randn(2, 5, WIDTH), mask=nn.Transformer.generate_square_subsequent_mask(5))

    assert [one.call.stack for one in tap.take()] == ["decoder"]


class Frozen(nn.Module):
    """A part that is fast in eval mode, in front of a model that trains."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part.requires_grad_(requires_grad=False)
        self.model = Model(1)

    def train(self, mode: bool = True) -> "Frozen":  # noqa: FBT001, FBT002 - torch's
        super().train(mode)
        self.part.eval()
        return self

    def forward(self, hidden: Hidden) -> Hidden:
        padding = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
        if isinstance(self.part, nn.MultiheadAttention):
            hidden = self.part(hidden, hidden, hidden, key_padding_mask=padding)[0]
        else:
            hidden = self.part(hidden, src_key_padding_mask=padding)
        return self.model(hidden)


def encoder_layer() -> nn.Module:
    return nn.TransformerEncoderLayer(WIDTH, HEADS, 16, batch_first=True)


PARTS: dict[str, Callable[[], nn.Module]] = {
    "attention": lambda: nn.MultiheadAttention(WIDTH, HEADS, batch_first=True),
    "encoder": lambda: nn.TransformerEncoder(encoder_layer(), 2),
    "layer": encoder_layer,
}


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype stage")
@pytest.mark.parametrize("name", PARTS)
def test_frozen_parts_stay_on_their_fast_path(make_tap: MakeTap, hidden: Hidden, name: str):
    model = Frozen(PARTS[name]()).train()
    expected = model(hidden)
    tap = make_tap(model)

    tap.arm()
    output = model(hidden)

    assert torch.equal(output, expected)
    modules = [one.call.module for one in tap.take()]
    assert modules == ([] if name == "layer" else ["model.blocks.0"])
    (note,) = tap.notes
    assert note.startswith("part is frozen and in eval mode")
    assert not model.part._forward_hooks
    assert not is_hooked()


def test_the_fast_path_differs_from_the_slow_one(hidden: Hidden):
    """The control of the test above: padded positions show which path was taken."""
    model = Frozen(PARTS["encoder"]()).train()

    fast = model.part(hidden, src_key_padding_mask=torch.tensor([[False] * 5, [True] * 5]))

    assert fast[1].eq(0).all()


def test_an_error_in_a_frozen_part_leaves_nothing(make_tap: MakeTap, hidden: Hidden):
    model = Frozen(PARTS["attention"]()).train()
    tap = make_tap(model)

    for _ in range(2):
        tap.arm()
        with pytest.raises(RuntimeError, match="embed_dim"):
            model(hidden[..., :3])
        assert not is_hooked()
        assert not model.part._forward_hooks

    tap.arm()
    model(hidden)
    assert layers_of(tap) == [0]
