from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional

from trackside.capture.attention import AttentionTap

MakeTap = Callable[..., AttentionTap]
WIDTH, HEADS = 8, 2
Hidden = torch.Tensor  # [batch, rows, width]


def layers_of(tap: AttentionTap) -> list[int]:
    return [captured.call.layer for captured in tap.take()]


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
    make_tap: MakeTap,
    hidden: Hidden,
    layers: tuple[int, ...] | None,
    expected: list[int],
    model_class: type[nn.Module],
):
    model = model_class()
    tap = make_tap(model, layers=layers)

    for _ in range(2):
        tap.arm()
        model(hidden)
        assert layers_of(tap) == expected

    missing = ("no layer 7 among 3 of decoder self_attention",) if layers == (0, 7) else ()
    assert tap.notes == missing


def test_layers_that_are_known_to_be_unwanted_are_not_copied(
    make_tap: MakeTap, hidden: Hidden, monkeypatch: pytest.MonkeyPatch, model_class: type[nn.Module]
):
    copied: list[torch.Tensor] = []

    def count(tensor: torch.Tensor) -> torch.Tensor:
        copied.append(tensor)
        return tensor.clone()

    monkeypatch.setattr("trackside.capture.recording.own_copy", count)
    model = model_class()
    tap = make_tap(model, layers=(0, -1))

    for expected in (6, 4):  # query and key of three layers, then of two
        copied.clear()
        tap.arm()
        model(hidden)
        assert layers_of(tap) == [0, 2]
        assert len(copied) == expected


def test_no_more_layers_are_held_than_may_be_wanted(
    make_tap: MakeTap, hidden: Hidden, model_class: type[nn.Module]
):
    model = model_class(6)
    tap = make_tap(model, layers=(1, -2))
    held: list[list[int]] = []

    def look(*_: object) -> None:
        held.append([captured.call.layer for _, captured in tap._recording._kept])

    for block in model.blocks:
        block.register_forward_hook(look)

    tap.arm()
    model(hidden)

    assert held == [[0], [0, 1], [1, 2], [1, 2, 3], [1, 3, 4], [1, 4, 5]]
    assert layers_of(tap) == [1, 4]


def test_a_model_that_grows_keeps_its_last_layer(
    make_tap: MakeTap, hidden: Hidden, model_class: type[nn.Module], block_class: type[nn.Module]
):
    model = model_class(2)
    tap = make_tap(model, layers=(-1,))

    for num_layers in (2, 3):
        tap.arm()
        model(hidden)
        assert layers_of(tap) == [num_layers - 1]
        model.blocks.append(block_class())


def test_a_sample_outside_of_the_batch_is_the_last_one_with_a_note(
    make_tap: MakeTap, hidden: Hidden, model_class: type[nn.Module]
):
    model = model_class(1)
    taps = make_tap(model, sample=7), make_tap(model, sample=1)

    for tap in taps:
        tap.arm()
    model(hidden)

    (first,), (second,) = (tap.take() for tap in taps)
    assert torch.equal(first.tensors["query"], second.tensors["query"])
    assert taps[0].notes == ("no sample 7 in a batch of 2: the last one is taken",)


def test_heads_that_do_not_exist_are_noted_once(
    make_tap: MakeTap, hidden: Hidden, model_class: type[nn.Module]
):
    model = model_class(2)
    tap = make_tap(model, heads=(1, 5, -1))

    tap.arm()
    model(hidden)

    assert [one.call.heads for one in tap.take()] == [(1,), (1,)]
    assert tap.notes == ("no head 5 among 2",)


def test_average_sends_all_heads(make_tap: MakeTap, hidden: Hidden, model_class: type[nn.Module]):
    model = model_class(1)
    tap = make_tap(model, heads="average")

    tap.arm()
    model(hidden)

    assert tap.take()[0].call.heads == (0, 1)


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
