"""Maps from queries and keys, against softmax written out in float64 and torch's own."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tracksided.attention import LazyMaps, map_name, reconstruct
from tracksided.samples import AttentionSample

Make = Callable[..., AttentionSample]
FLOAT32_TOLERANCE = 2e-6  # logits of up to 30 carry 2e-6 of rounding in float32


def weights_by_hand(sample: AttentionSample) -> np.ndarray:
    """Compute the definition, one weight at a time, in float64."""
    call = sample.call
    num_heads, num_rows = len(call.heads), len(call.query_rows)
    weights = np.zeros((num_heads, num_rows, call.num_keys))
    for head in range(num_heads):
        for row in range(num_rows):
            exponents = {
                key: logit
                for key in range(call.num_keys)
                if (logit := _logit(sample, head, row, key)) > -math.inf
            }
            sink = -math.inf if sample.sinks is None else float(sample.sinks[head])
            top = max([sink, *exponents.values()])
            if not exponents:
                continue
            mass = sum(math.exp(logit - top) for logit in exponents.values())
            mass += math.exp(sink - top)
            for key, logit in exponents.items():
                weights[head, row, key] = math.exp(logit - top) / mass
    return weights


def _logit(sample: AttentionSample, head: int, row: int, key: int) -> float:
    call = sample.call
    if sample.logits is not None:
        return float(sample.logits[head, row, key])
    if call.is_causal and key > call.query_rows[row]:
        return -math.inf
    query = sample.query[head, row].astype(np.float64)
    keys = sample.key[call.key_heads[head], key].astype(np.float64)
    logit = call.scale * math.fsum(query * keys)
    if sample.mask is None:
        return logit
    mask = sample.mask[head if len(sample.mask) > 1 else 0, row, key]
    if sample.mask.dtype == np.bool_:
        return logit if mask else -math.inf
    return logit + float(mask)


@st.composite
def samples(draw: st.DrawFn, make: Make) -> AttentionSample:
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    heads, rows, keys, width = (draw(st.integers(1, limit)) for limit in (4, 5, 6, 3))
    key_heads = draw(st.integers(1, heads))
    mask_heads = draw(st.sampled_from([1, heads]))
    shape = (mask_heads, rows, keys)
    masks = {
        "none": None,
        "bool": rng.random(shape) < 0.6,
        "float": rng.normal(0, 3, shape).astype(np.float32),
        "-inf": np.where(rng.random(shape) < 0.4, -np.inf, 0).astype(np.float32),
    }
    num_queries = rows + draw(st.integers(0, 4))
    query_rows = np.sort(rng.choice(num_queries, rows, replace=False))
    return make(
        rng.normal(0, 2, (heads, rows, width)).astype(np.float32),
        rng.normal(0, 2, (key_heads, keys, width)).astype(np.float32),
        mask=masks[draw(st.sampled_from(sorted(masks)))],
        sinks=draw(st.sampled_from([None, rng.normal(0, 3, heads).astype(np.float32)])),
        scale=draw(st.floats(0.1, 2.0)),
        is_causal=draw(st.booleans()),
        key_heads=tuple(int(i) for i in rng.integers(0, key_heads, heads)),
        num_queries=num_queries,
        query_rows=tuple(int(row) for row in query_rows),
    )


@settings(max_examples=50)
@given(data=st.data())
def test_weights_equal_softmax_by_hand(make_sample: Make, data: st.DataObject) -> None:
    sample = data.draw(samples(make_sample))

    found = reconstruct(sample).weights

    np.testing.assert_allclose(found, weights_by_hand(sample), atol=FLOAT32_TOLERANCE)


@pytest.mark.parametrize("change", ["scale", "is_causal", "mask", "key_heads"])
def test_the_reference_notices_a_wrong_ingredient(make_sample: Make, change: str) -> None:
    rng = np.random.default_rng(1)
    query, key = rng.normal(0, 2, (2, 4, 5, 3)).astype(np.float32)
    mask = rng.random((1, 5, 5)) < 0.7
    fields = {"scale": 0.5, "is_causal": True, "key_heads": (0, 1, 2, 3)}
    wrong = {"scale": 0.55, "is_causal": False, "key_heads": (0, 0, 1, 1)}
    expected = weights_by_hand(make_sample(query, key, mask=mask, **fields))

    if change == "mask":
        found = reconstruct(make_sample(query, key, **fields))
    else:
        found = reconstruct(make_sample(query, key, mask=mask, **{**fields, change: wrong[change]}))

    assert np.abs(found.weights - expected).max() > 1e-2


def test_weights_equal_torch_with_grouped_keys(make_sample: Make) -> None:
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(1, 6, 7, 4, generator=generator)
    key = torch.randn(1, 2, 7, 4, generator=generator)
    identity = torch.eye(7).expand(1, 2, 7, 7)  # as values: the output is the weights
    expected = torch.nn.functional.scaled_dot_product_attention(
        query, key, identity, is_causal=True, enable_gqa=True
    )[0]

    found = reconstruct(
        make_sample(
            query[0].numpy(),
            key[0].numpy(),
            is_causal=True,
            scale=0.5,
            key_heads=(0, 0, 0, 1, 1, 1),
        )
    )

    np.testing.assert_allclose(found.weights, expected.numpy(), atol=1e-6)


def test_captured_logits_are_used_as_they_are(make_sample: Make) -> None:
    logits = np.random.default_rng(2).normal(0, 5, (2, 3, 4)).astype(np.float32)
    logits[0, 1, 2:] = -np.inf
    sample = make_sample(logits=logits)
    before = logits.copy()

    found = reconstruct(sample)

    np.testing.assert_allclose(found.weights, weights_by_hand(sample), atol=FLOAT32_TOLERANCE)
    assert found.visible[0, 1].tolist() == [True, True, False, False]
    np.testing.assert_array_equal(logits, before)


@pytest.mark.parametrize("kind", ["bool", "-inf"])
def test_a_fully_masked_row_is_zero(make_sample: Make, kind: str) -> None:
    query, key = np.ones((2, 1, 2, 3), dtype=np.float32)
    mask = np.array([[[True, True], [False, False]]])
    if kind == "-inf":
        mask = np.where(mask, 0, -np.inf).astype(np.float32)

    found = reconstruct(make_sample(query, key, mask=mask))

    assert found.weights[0].tolist() == [[0.5, 0.5], [0, 0]]
    assert found.visible[0].tolist() == [[True, True], [False, False]]


@pytest.mark.parametrize("lowest", [-1e4, -65504.0, np.finfo(np.float32).min])
def test_large_negative_masks_hide_keys(make_sample: Make, lowest: float) -> None:
    query, key = np.ones((2, 1, 1, 3), dtype=np.float32)
    key = np.repeat(key, 3, axis=1)
    mask = np.array([[[0, 0, lowest]]], dtype=np.float32)

    found = reconstruct(make_sample(query, key, mask=mask))

    assert found.weights[0, 0].tolist() == [0.5, 0.5, 0]
    assert found.visible[0, 0].tolist() == [True, True, False]


def test_kept_rows_keep_their_place_under_a_causal_mask(make_sample: Make) -> None:
    query = np.zeros((1, 2, 1), dtype=np.float32)
    key = np.zeros((1, 4, 1), dtype=np.float32)

    found = reconstruct(make_sample(query, key, is_causal=True, query_rows=(1, 3), num_queries=4))

    assert found.weights[0].tolist() == [[0.5, 0.5, 0, 0], [0.25, 0.25, 0.25, 0.25]]


def test_a_sink_takes_mass_and_is_cut(make_sample: Make) -> None:
    query = np.zeros((1, 1, 1), dtype=np.float32)
    key = np.zeros((1, 2, 1), dtype=np.float32)

    found = reconstruct(make_sample(query, key, sinks=np.array([math.log(2)], dtype=np.float32)))

    assert found.weights[0, 0] == pytest.approx([0.25, 0.25])


def test_the_largest_visible_logit_is_reported_per_head(make_sample: Make) -> None:
    query = np.array([[[2.0]], [[-3.0]], [[1.0]]], dtype=np.float32)
    key = np.tile(np.array([[[5.0], [7.0]]], dtype=np.float32), (3, 1, 1))
    mask = np.array([[[True, False]], [[True, True]], [[False, False]]])

    found = reconstruct(make_sample(query, key, mask=mask, scale=0.5))

    np.testing.assert_array_equal(found.max_logit, [5.0, -7.5, np.nan])


def test_a_logit_that_is_not_a_number_spoils_its_row_only(make_sample: Make) -> None:
    logits = np.zeros((1, 2, 2), dtype=np.float32)
    logits[0, 0, 1] = np.nan

    found = reconstruct(make_sample(logits=logits))

    assert np.isnan(found.weights[0, 0]).all()
    assert found.weights[0, 1].tolist() == [0.5, 0.5]
    assert np.isnan(found.max_logit[0])


def test_read_only_arrays_will_do(make_sample: Make) -> None:
    query, key = np.ones((2, 1, 2, 3), dtype=np.float32)
    for array in (query, key):
        array.flags.writeable = False

    assert reconstruct(make_sample(query, key)).weights[0, 0].tolist() == [0.5, 0.5]


def test_maps_beyond_the_bound_are_rebuilt_on_each_walk(make_sample: Make) -> None:
    logits = np.zeros((1, 2, 2), dtype=np.float32)
    maps = LazyMaps([make_sample(logits=logits, layer=i) for i in range(3)], max_kept_bytes=16)

    first, second = list(maps), list(maps)

    assert [found.layer for found in first] == [found.layer for found in second] == [0, 1, 2]
    assert [a is b for a, b in zip(first, second, strict=True)] == [True, False, False]


def test_a_broken_sample_costs_its_own_map_only(make_sample: Make) -> None:
    query, key = np.ones((2, 1, 1, 1), dtype=np.float32)
    broken = make_sample(query, key, key_heads=(7,), layer=1)

    maps = LazyMaps([make_sample(query, key), broken])

    assert [found.layer for found in maps] == [0]
    assert len(maps) == 1
    assert list(maps.failures) == ["map of decoder layer 1 self_attention"]


def test_files_are_named_after_stack_layer_and_type(make_sample: Make) -> None:
    logits = np.zeros((1, 1, 1), dtype=np.float32)
    cross = make_sample(logits=logits, layer=3, type="cross_attention")
    encoder = make_sample(logits=logits, stack="encoder")

    assert map_name(reconstruct(cross)) == "decoder_layer3_cross_attn"
    assert map_name(reconstruct(encoder)) == "encoder_layer0_self_attn"
