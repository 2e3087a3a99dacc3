import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional
from torch.nn.attention.bias import causal_lower_right, causal_upper_left

from trackside.capture.attention import AttentionTap
from trackside.capture.captured import CapturedAttention

MakeTap = Callable[..., AttentionTap]
Reconstruct = Callable[[CapturedAttention], np.ndarray]

BATCH, HEADS, QUERIES, KEYS, SIZE = 3, 4, 5, 7, 8
TOLERANCE = 1e-5  # the contract, in fp32


class Call(nn.Module):
    """Calls SDPA with what it is given; the scores are large enough that errors show."""

    def forward(self, query: torch.Tensor, key: torch.Tensor, **options: Any) -> torch.Tensor:
        return functional.scaled_dot_product_attention(query, key, key, **options)


def rand(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))) * 2


def naive(
    query: torch.Tensor,
    key: torch.Tensor,
    *,
    scale: float,
    mask: torch.Tensor | None = None,
    is_causal: bool = False,
) -> np.ndarray:
    """Loop over heads and rows of one sample, [heads, queries, keys]."""
    weights = np.zeros((query.shape[0], query.shape[1], key.shape[1]))
    group = query.shape[0] // key.shape[0]
    for head, row in np.ndindex(query.shape[0], query.shape[1]):
        logits = [
            scale * float(query[head, row].double() @ key[head // group, k].double())
            for k in range(key.shape[1])
        ]
        for k in range(key.shape[1]):
            if is_causal and k > row:
                logits[k] = -math.inf
            if mask is not None and mask.dtype is torch.bool and not mask[head, row, k]:
                logits[k] = -math.inf
            if mask is not None and mask.dtype is not torch.bool:
                logits[k] += float(mask[head, row, k])
        powers = [math.exp(logit - max(logits)) for logit in logits]
        weights[head, row] = np.array(powers) / sum(powers)
    return weights


MASKS = {
    "bool of queries and keys": torch.ones(QUERIES, KEYS).tril(2).bool(),
    "bool of one sample and head": torch.ones(1, 1, QUERIES, KEYS).tril(1).bool(),
    "bool padding": (torch.arange(KEYS) < torch.tensor([[5], [4], [2]]))[:, None, None],
    "bool of all": torch.rand(BATCH, HEADS, QUERIES, KEYS).argsort(-1) < 4,
    "float of queries and keys": rand(QUERIES, KEYS),
    "float bias of heads": rand(1, HEADS, QUERIES, KEYS),
    "float of heads without batch": rand(HEADS, QUERIES, KEYS),
    "float of samples": rand(BATCH, 1, QUERIES, KEYS),
    "float of keys": rand(1, KEYS),
}


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("sample", [0, 2])
def test_every_kind_of_mask_is_reconstructed(
    make_tap: MakeTap, reconstruct: Reconstruct, name: str, sample: int
) -> None:
    model, mask = Call(), MASKS[name]
    query, key = rand(BATCH, HEADS, QUERIES, SIZE), rand(BATCH, HEADS, KEYS, SIZE)
    tap = make_tap(model, sample=sample)

    tap.arm()
    model(query, key, attn_mask=mask)
    (captured,) = tap.take()

    full = mask.expand(BATCH, HEADS, QUERIES, KEYS)[sample]
    expected = naive(query[sample], key[sample], scale=SIZE**-0.5, mask=full)
    found = reconstruct(captured)
    assert np.abs(found - expected).max() <= TOLERANCE
    # Negative control: without its mask the map is another one.
    assert np.abs(naive(query[sample], key[sample], scale=SIZE**-0.5) - found).max() > 0.1


@pytest.mark.parametrize(("num_queries", "num_keys"), [(6, 6), (4, 6), (6, 4)])
def test_causal_attention_is_top_left_aligned(
    make_tap: MakeTap, reconstruct: Reconstruct, num_queries: int, num_keys: int
) -> None:
    model, query, key = Call(), rand(2, 3, num_queries, SIZE), rand(2, 3, num_keys, SIZE)
    tap = make_tap(model)

    tap.arm()
    output = model(query, key, is_causal=True)
    (captured,) = tap.take()

    expected = naive(query[0], key[0], scale=SIZE**-0.5, is_causal=True)
    assert captured.call.is_causal
    assert np.abs(reconstruct(captured) - expected).max() <= TOLERANCE
    # The model's own output, through values that equal the keys.
    assert np.abs(expected @ key[0].double().numpy() - output[0].double().numpy()).max() < 1e-4
    assert np.abs(naive(query[0], key[0], scale=SIZE**-0.5) - expected).max() > 0.1


def test_the_given_scale_counts(make_tap: MakeTap, reconstruct: Reconstruct) -> None:
    model, query, key = Call(), rand(1, 2, 4, SIZE), rand(1, 2, 4, SIZE)
    tap = make_tap(model)

    tap.arm()
    model(query, key, scale=0.7)
    (captured,) = tap.take()

    assert np.abs(reconstruct(captured) - naive(query[0], key[0], scale=0.7)).max() <= TOLERANCE


def test_grouped_queries_share_keys_in_blocks(make_tap: MakeTap, reconstruct: Reconstruct) -> None:
    model, query, key = Call(), rand(2, 6, 4, SIZE), rand(2, 2, 4, SIZE)
    tap = make_tap(model)

    tap.arm()
    model(query, key, enable_gqa=True)
    (captured,) = tap.take()

    assert captured.call.key_heads == (0, 0, 0, 1, 1, 1)
    assert captured.tensors["key"].shape == (2, 4, SIZE)
    expected = naive(query[0], key[0], scale=SIZE**-0.5)
    assert np.abs(reconstruct(captured) - expected).max() <= TOLERANCE
    tiled = naive(query[0], key[0].repeat(3, 1, 1), scale=SIZE**-0.5)
    assert np.abs(tiled - expected).max() > 0.1


def test_a_key_expanded_from_one_head_is_sent_once(
    make_tap: MakeTap, reconstruct: Reconstruct
) -> None:
    model, query, key = Call(), rand(2, 4, 4, SIZE), rand(2, 1, 4, SIZE)
    tap = make_tap(model)

    tap.arm()
    model(query, key.expand(-1, 4, -1, -1))
    (captured,) = tap.take()

    assert captured.tensors["key"].shape == (1, 4, SIZE)
    assert captured.call.key_heads == (0, 0, 0, 0)
    expected = naive(query[0], key[0], scale=SIZE**-0.5)
    assert np.abs(reconstruct(captured) - expected).max() <= TOLERANCE


@pytest.mark.parametrize("shape", [(3, 5, SIZE), (5, SIZE)])
def test_fewer_dimensions_are_one_head(
    make_tap: MakeTap, reconstruct: Reconstruct, shape: tuple[int, ...]
) -> None:
    model, query, key = Call(), rand(*shape), rand(*shape) + 1
    tap = make_tap(model, sample=-1)

    tap.arm()
    model(query, key)
    (captured,) = tap.take()

    assert captured.call.num_heads == 1
    last = query.reshape(-1, 5, SIZE)[-1:], key.reshape(-1, 5, SIZE)[-1:]
    assert np.abs(reconstruct(captured) - naive(*last, scale=SIZE**-0.5)).max() <= TOLERANCE


def test_kept_heads_and_rows_are_those_of_the_full_map(
    make_tap: MakeTap, reconstruct: Reconstruct
) -> None:
    model, query, key = Call(), rand(2, 6, 9, SIZE), rand(2, 3, 9, SIZE)
    mask = rand(2, 6, 9, 9)
    tap = make_tap(model, heads=(5, -6, 1), max_queries=4, sample=1)

    tap.arm()
    model(query, key, attn_mask=mask, enable_gqa=True)
    (captured,) = tap.take()

    call = captured.call
    assert call.heads == (5, 0, 1)
    assert call.key_heads == (1, 0, 0)
    assert captured.tensors["key"].shape == (2, 9, SIZE)
    assert call.query_rows == (0, 2, 5, 8)
    full = naive(query[1], key[1], scale=SIZE**-0.5, mask=mask[1])
    expected = full[[5, 0, 1]][:, [0, 2, 5, 8]]
    assert np.abs(reconstruct(captured) - expected).max() <= TOLERANCE


@st.composite
def shapes(draw: st.DrawFn) -> dict[str, Any]:
    """Draw a call that SDPA takes, with a mask that broadcasts somehow, and what is kept of it."""
    batch, key_heads, group = (
        draw(st.integers(1, 3)),
        draw(st.integers(1, 3)),
        draw(st.integers(1, 3)),
    )
    num_queries, num_keys = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    full = (batch, key_heads * group, num_queries, num_keys)
    mask = [draw(st.sampled_from([1, side])) for side in full[:3]] + [num_keys]
    num_dimensions = draw(st.integers(2, 4))
    return {
        "full": full,
        "key_heads": key_heads,
        "mask": mask[-num_dimensions:],
        "is_bool": draw(st.booleans()),
        "sample": draw(st.integers(0, batch - 1)),
        "heads": tuple(draw(st.permutations(range(full[1])))[: draw(st.integers(1, full[1]))]),
        "max_queries": draw(st.integers(1, 6)),
    }


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(drawn=shapes())
def test_whatever_broadcasts_is_reconstructed(
    make_tap: MakeTap, reconstruct: Reconstruct, drawn: dict[str, Any]
) -> None:
    batch, heads, num_queries, num_keys = drawn["full"]
    model = Call()
    query, key = (
        rand(batch, heads, num_queries, SIZE),
        rand(batch, drawn["key_heads"], num_keys, SIZE),
    )
    mask = rand(*drawn["mask"])
    if drawn["is_bool"]:
        mask = mask > 0
        mask[..., 0] = True  # a row without any key has no weights to compare
    kept = {name: drawn[name] for name in ("sample", "heads", "max_queries")}
    tap = make_tap(model, **kept)

    tap.arm()
    model(query, key, attn_mask=mask, enable_gqa=True)
    (captured,) = tap.take()
    tap.remove()

    sample = drawn["sample"]
    full = naive(
        query[sample], key[sample], scale=SIZE**-0.5, mask=mask.expand(drawn["full"])[sample]
    )
    expected = full[list(drawn["heads"])][:, list(captured.call.query_rows)]
    assert np.abs(reconstruct(captured) - expected).max() <= TOLERANCE


def test_bfloat16_is_captured_as_it_is(make_tap: MakeTap) -> None:
    model, query = Call(), rand(1, 2, 4, SIZE).bfloat16()
    tap = make_tap(model)

    tap.arm()
    model(query, query + 1)
    (captured,) = tap.take()

    assert captured.tensors["query"].dtype is torch.bfloat16
    assert torch.equal(captured.tensors["query"], query[0])


def test_more_dimensions_than_four_are_refused_with_a_note(make_tap: MakeTap) -> None:
    model, query = Call(), rand(1, 2, 2, 4, SIZE)
    tap = make_tap(model)

    tap.arm()
    model(query, query)

    assert tap.take() == ()
    assert tap.notes == ("scaled_dot_product_attention was called on 5 dimensions",)


def test_autocast_rounds_what_is_captured_as_it_rounds_the_call(
    make_tap: MakeTap, reconstruct: Reconstruct
) -> None:
    model, query, key = Call(), rand(1, HEADS, QUERIES, SIZE), rand(1, HEADS, KEYS, SIZE)
    bias = rand(QUERIES, KEYS) * 10  # rounding it to bfloat16 shows
    tap = make_tap(model)

    tap.arm()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model(query, key, attn_mask=bias)
    (captured,) = tap.take()

    assert {tensor.dtype for tensor in captured.tensors.values()} == {torch.bfloat16}
    query, key, bias = (tensor.bfloat16().double() for tensor in (query, key, bias))
    mask = bias.expand(HEADS, QUERIES, KEYS)
    expected = naive(query[0], key[0], scale=SIZE**-0.5, mask=mask)
    assert np.abs(reconstruct(captured) - expected).max() <= TOLERANCE


@pytest.mark.parametrize(
    ("bias", "shape", "offset"),
    [
        (causal_upper_left, (5, 7), 0),
        (causal_upper_left, (7, 5), 0),
        (causal_lower_right, (5, 7), 2),
        (causal_lower_right, (6, 6), 0),
    ],
)
def test_a_causal_bias_is_a_mask_by_rule(
    make_tap: MakeTap,
    reconstruct: Reconstruct,
    bias: Callable[[int, int], torch.Tensor],
    shape: tuple[int, int],
    offset: int,
) -> None:
    num_queries, num_keys = shape
    model = Call()
    query, key = rand(2, HEADS, num_queries, SIZE), rand(2, HEADS, num_keys, SIZE)
    tap = make_tap(model, sample=1, max_queries=3)

    tap.arm()
    model(query, key, attn_mask=bias(num_queries, num_keys))
    (captured,) = tap.take()

    assert captured.call.stack == "decoder"
    assert captured.call.is_causal == (offset == 0)
    mask = torch.ones(num_queries, num_keys).tril(offset).bool().expand(HEADS, -1, -1)
    expected = naive(query[1], key[1], scale=SIZE**-0.5, mask=mask)
    rows = list(captured.call.query_rows)
    assert np.abs(reconstruct(captured) - expected[:, rows]).max() <= TOLERANCE


@pytest.mark.parametrize(
    ("origin", "configured", "num_sent"),
    [
        ("transformers.models.llama.modeling_llama", 4, 2),
        ("transformers.models.llama.modeling_llama", 8, 4),  # heads grouped in another way
        ("my_model", 4, 4),
    ],
)
def test_keys_that_a_hugging_face_model_repeats_are_sent_once(
    make_tap: MakeTap, reconstruct: Reconstruct, origin: str, configured: int, num_sent: int
) -> None:
    kind = type("Attention", (Call,), {"__module__": origin})
    model = kind()
    model.num_key_value_groups = 2
    model.config = SimpleNamespace(num_attention_heads=configured)
    query, key = rand(2, 4, QUERIES, SIZE), rand(2, 2, KEYS, SIZE).repeat_interleave(2, dim=1)
    if num_sent == 4:
        key = rand(2, 4, KEYS, SIZE)  # really heads of their own
    tap = make_tap(model, sample=1)

    tap.arm()
    model(query, key, attn_mask=torch.ones(QUERIES, KEYS).bool())
    (captured,) = tap.take()

    assert captured.tensors["key"].shape[0] == num_sent
    expected = naive(query[1], key[1], scale=SIZE**-0.5)
    assert np.abs(reconstruct(captured) - expected).max() <= TOLERANCE
