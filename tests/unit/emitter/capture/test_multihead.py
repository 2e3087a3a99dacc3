from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from trackside.capture.attention import AttentionTap
from trackside.capture.captured import CapturedAttention

MakeTap = Callable[..., AttentionTap]
Reconstruct = Callable[[CapturedAttention], np.ndarray]

EMBED, HEADS, BATCH, QUERIES, KEYS = 16, 4, 3, 5, 6
TOLERANCE = 1e-5  # the contract, in fp32

PADDING = torch.arange(KEYS) >= torch.tensor([[6], [4], [3]])
CAUSAL = torch.ones(KEYS, KEYS).triu(1).bool()
BIAS = torch.linspace(-2, 2, QUERIES * KEYS).reshape(QUERIES, KEYS)
PER_HEAD = torch.linspace(-3, 3, BATCH * HEADS * QUERIES * KEYS).reshape(-1, QUERIES, KEYS).sin()


def attention(**options: Any) -> nn.MultiheadAttention:
    torch.manual_seed(3)
    module = nn.MultiheadAttention(EMBED, HEADS, batch_first=True, **options)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn_like(parameter))  # sharp maps: an error shows
    return module


def inputs(*, is_self: bool, key_size: int = EMBED) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(5)
    key = torch.randn(BATCH, KEYS, key_size) / 2
    return (key, key) if is_self else (torch.randn(BATCH, QUERIES, EMBED) / 2, key)


def check(
    make_tap: MakeTap,
    reconstruct: Reconstruct,
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    **options: Any,
) -> None:
    """Compare with the weights that the module returns, with and without asking for them."""
    expected = module(query, key, key, average_attn_weights=False, **options)[1]
    for need_weights in (True, False):
        tap = make_tap(module, sample=1)
        tap.arm()
        module(query, key, key, need_weights=need_weights, **options)
        (captured,) = tap.take()
        error = np.abs(reconstruct(captured) - expected[1].detach().double().numpy()).max()
        assert error <= TOLERANCE
        other_sample = expected[0].detach().double().numpy()
        assert np.abs(reconstruct(captured) - other_sample).max() > 0.1
        tap.remove()


MASKED = {
    "nothing": {},
    "bool padding": {"key_padding_mask": PADDING},
    "float padding": {"key_padding_mask": torch.zeros(BATCH, KEYS).masked_fill(PADDING, -1e4)},
    "bool mask": {"attn_mask": CAUSAL[:QUERIES]},
    "float mask": {"attn_mask": BIAS},
    "bool both": {"attn_mask": CAUSAL[:QUERIES], "key_padding_mask": PADDING},
    "mask of samples and heads": {"attn_mask": PER_HEAD},
    "bool mask of samples and heads": {"attn_mask": PER_HEAD > 0.9, "key_padding_mask": PADDING},
    "float both": {
        "attn_mask": PER_HEAD,
        "key_padding_mask": torch.zeros(BATCH, KEYS).masked_fill(PADDING, -1e4),
    },
}


@pytest.mark.parametrize("masked", MASKED)
@pytest.mark.parametrize("options", [{}, {"add_bias_kv": True}, {"add_zero_attn": True}])
def test_cross_attention_is_reconstructed(
    make_tap: MakeTap, reconstruct: Reconstruct, masked: str, options: dict[str, Any]
) -> None:
    query, key = inputs(is_self=False)

    check(make_tap, reconstruct, attention(**options), query, key, **MASKED[masked])


@pytest.mark.parametrize("options", [{"bias": False}, {"add_bias_kv": True, "add_zero_attn": True}])
def test_self_attention_is_reconstructed(
    make_tap: MakeTap, reconstruct: Reconstruct, options: dict[str, Any]
) -> None:
    query, key = inputs(is_self=True)

    check(make_tap, reconstruct, attention(**options), query, key, key_padding_mask=PADDING)


@pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask and attn_mask")
def test_a_bool_mask_and_a_float_mask_are_added_up(
    make_tap: MakeTap, reconstruct: Reconstruct
) -> None:
    query, key = inputs(is_self=False)

    check(make_tap, reconstruct, attention(), query, key, attn_mask=BIAS, key_padding_mask=PADDING)


def test_separate_projections_are_used(make_tap: MakeTap, reconstruct: Reconstruct) -> None:
    module = attention(kdim=10, vdim=10)
    query, key = inputs(is_self=False, key_size=10)

    check(make_tap, reconstruct, module, query, key)


def test_the_causal_hint_stands_for_the_mask(make_tap: MakeTap, reconstruct: Reconstruct) -> None:
    query, key = inputs(is_self=True)

    check(make_tap, reconstruct, attention(), query, key, attn_mask=CAUSAL, is_causal=True)


def test_the_causal_hint_gives_way_to_padding(make_tap: MakeTap, reconstruct: Reconstruct) -> None:
    query, key = inputs(is_self=True)

    check(
        make_tap,
        reconstruct,
        attention(),
        query,
        key,
        attn_mask=CAUSAL,
        key_padding_mask=PADDING,
        is_causal=True,
    )


def test_input_without_a_batch_is_one_sample(make_tap: MakeTap, reconstruct: Reconstruct) -> None:
    module = attention()
    query, key = (tensor[1] for tensor in inputs(is_self=False))
    tap = make_tap(module)

    tap.arm()
    expected = module(query, key, key, average_attn_weights=False, key_padding_mask=PADDING[1])[1]
    (captured,) = tap.take()

    assert captured.call.type == "cross_attention"
    error = np.abs(reconstruct(captured) - expected.detach().double().numpy()).max()
    assert error <= TOLERANCE


def test_kept_heads_and_rows_are_those_of_the_full_map(
    make_tap: MakeTap, reconstruct: Reconstruct
) -> None:
    module = attention()
    query, key = inputs(is_self=False)
    tap = make_tap(module, heads=(3, 1), max_queries=2, sample=2)

    tap.arm()
    expected = module(query, key, key, average_attn_weights=False, attn_mask=PER_HEAD)[1]
    (captured,) = tap.take()

    assert captured.call.heads == (3, 1)
    assert captured.call.key_heads == (1, 0)
    kept = expected[2, [3, 1]][:, [0, 4]].detach().double().numpy()
    assert np.abs(reconstruct(captured) - kept).max() <= TOLERANCE


def test_autocast_leaves_gradients_as_they_are(make_tap: MakeTap, reconstruct: Reconstruct) -> None:
    query, key = inputs(is_self=False)
    gradients = []
    for is_armed in (False, True):
        module = attention()
        tap = make_tap(module)
        if is_armed:
            tap.arm()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output, weights = module(query, key, key, average_attn_weights=False)
            output = output + module(query, key, key)[0]
        output.float().sum().backward()
        gradients.append([parameter.grad for parameter in module.parameters()])

    assert all(torch.equal(*pair) for pair in zip(*gradients, strict=True))
    (captured,) = tap.take()
    assert captured.tensors["query"].dtype is torch.bfloat16
    error = np.abs(reconstruct(captured) - weights[0].float().detach().numpy())
    assert error.max() <= 2e-2  # the contract, in bf16
