"""Flex attention on the CPU, where it has no backward: only what follows it learns.

Uncompiled, torch would compile the operator by itself; like a session, the tests forbid that.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.attention import flex_attention as flex
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from trackside.capture.attention import AttentionTap
from trackside.capture.captured import CapturedAttention

pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")

MakeTap = Callable[..., AttentionTap]
Reconstruct = Callable[[CapturedAttention], np.ndarray]
Index = torch.Tensor  # [], an integer
Modification = Callable[..., torch.Tensor]

BATCH, HEADS, QUERIES, KEYS, SIZE = 3, 4, 6, 7, 8
SAMPLE = 2
TOLERANCE = 1e-5  # the contract, in fp32
SLOPES = torch.tensor([0.5, 1.0, -0.25, 2.0])
LENGTHS = torch.tensor([7, 4, 5])
DISTANCES = torch.linspace(-3, 3, HEADS * (QUERIES + KEYS)).sin().view(HEADS, -1) * 2


@pytest.fixture(autouse=True)
def _uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flex, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)


def causal(_sample: Index, _head: Index, row: Index, key: Index) -> Index:
    return row + 1 >= key


def padding(sample: Index, _head: Index, _row: Index, key: Index) -> Index:
    return key < LENGTHS[sample]


def window_by_head(_sample: Index, head: Index, row: Index, key: Index) -> Index:
    return (row - key).abs() <= head


def alibi(score: Index, _sample: Index, head: Index, row: Index, key: Index) -> Index:
    return score + SLOPES[head] * (key - row)


def soft_cap(score: Index, _sample: Index, _head: Index, _row: Index, _key: Index) -> Index:
    return 2 * torch.tanh(score / 2)


def relative(score: Index, _sample: Index, head: Index, row: Index, key: Index) -> Index:
    return score + DISTANCES[head][row - key + KEYS]  # a row of the table, then an entry of it


class Attention(nn.Module):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.options = options
        self.project = nn.Linear(SIZE, SIZE)

    def forward(self, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        return self.project(flex_attention(query, key, key, **self.options))


def inputs(key_heads: int = HEADS) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(4)
    query = torch.randn(BATCH, HEADS, QUERIES, SIZE, generator=generator) * 2
    return query, torch.randn(BATCH, key_heads, KEYS, SIZE, generator=generator) * 2


def block_mask(function: Modification) -> flex.BlockMask:
    return create_block_mask(function, BATCH, HEADS, QUERIES, KEYS, device="cpu")


def naive(
    query: torch.Tensor,
    key: torch.Tensor,
    *,
    scale: float = SIZE**-0.5,
    mask: Modification | None = None,
    score: Modification | None = None,
) -> np.ndarray:
    """Call the functions for one number at a time, [heads, queries, keys]."""
    logits = np.full((HEADS, QUERIES, KEYS), -math.inf)
    for place in np.ndindex(*logits.shape):
        head, row, column = (torch.tensor(index) for index in place)
        sample = torch.tensor(SAMPLE)
        shared = head // (HEADS // key.shape[1])
        dot = query[sample, head, row].double() @ key[sample, shared, column].double() * scale
        if mask is None or mask(sample, head, row, column):
            logits[place] = dot if score is None else score(dot, sample, head, row, column)
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


@pytest.mark.parametrize("score", [None, alibi, soft_cap, relative])
@pytest.mark.parametrize("mask", [None, causal, padding, window_by_head])
def test_the_users_own_functions_decide_the_map(
    make_tap: MakeTap,
    reconstruct: Reconstruct,
    mask: Modification | None,
    score: Modification | None,
) -> None:
    model = Attention(score_mod=score, block_mask=None if mask is None else block_mask(mask))
    query, key = inputs()
    tap = make_tap(model, sample=SAMPLE)

    tap.arm()
    model(query, key).sum().backward()
    (captured,) = tap.take()

    assert tap.notes == ()
    assert captured.call.module == ""
    assert ("logits" in captured.tensors) == (score is not None)
    assert (
        np.abs(reconstruct(captured) - naive(query, key, mask=mask, score=score)).max() <= TOLERANCE
    )


def test_kept_heads_rows_and_shared_keys(make_tap: MakeTap, reconstruct: Reconstruct) -> None:
    query, key = inputs(key_heads=2)
    for score in (None, alibi):
        model = Attention(
            score_mod=score, block_mask=block_mask(window_by_head), enable_gqa=True, scale=0.5
        )
        tap = make_tap(model, sample=SAMPLE, heads=(3, 1), max_queries=4)

        tap.arm()
        model(query, key)
        (captured,) = tap.take()

        rows = list(captured.call.query_rows)
        assert rows == [0, 1, 3, 5]
        expected = naive(query, key, mask=window_by_head, score=score, scale=0.5)[[3, 1]][:, rows]
        assert np.abs(reconstruct(captured) - expected).max() <= TOLERANCE


def test_a_mask_of_all_heads_is_kept_once(make_tap: MakeTap) -> None:
    model = Attention(block_mask=block_mask(causal))
    tap = make_tap(model)

    tap.arm()
    model(*inputs())
    (captured,) = tap.take()

    assert captured.tensors["mask"].shape == (1, QUERIES, KEYS)
    assert captured.call.stack == "decoder"


def test_a_function_that_fails_is_named_and_the_others_are_captured(make_tap: MakeTap) -> None:
    calls = 0

    def fails_later(_sample: Index, _head: Index, row: Index, key: Index) -> Index:
        nonlocal calls
        calls += 1
        if calls > 2:  # after the mask was made, and the operator itself has called it
            raise LookupError("mine")
        return row >= key

    model = nn.Sequential(Attention(block_mask=block_mask(fails_later)), Attention())
    query, key = inputs()
    model.forward = lambda: [layer(query, key) for layer in model]
    tap = make_tap(model)

    tap.arm()
    model()

    assert [captured.call.layer for captured in tap.take()] == [1]
    assert len(tap.notes) == 1
    assert "LookupError('mine')" in tap.notes[0]


class SinkAttention(Attention):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.sinks = nn.Parameter(torch.tensor([0.5, -1.0, 3.0, 0.0]))


class TheirSinkAttention(SinkAttention):
    """What `transformers` runs: sinks scale the result of the operator."""

    __module__ = "transformers.models.made_up"


@pytest.mark.parametrize("score", [None, alibi])
def test_sinks_that_come_in_after_the_operator_travel_with_the_scores(
    make_tap: MakeTap, score: Modification | None
) -> None:
    model = TheirSinkAttention(score_mod=score, block_mask=block_mask(causal))
    tap = make_tap(model, heads=(2, 0))

    tap.arm()
    model(*inputs())
    (captured,) = tap.take()

    assert captured.tensors["sinks"].tolist() == [3.0, 0.5]
    assert ("logits" in captured.tensors) == (score is not None)


def test_sinks_of_others_may_be_anything(make_tap: MakeTap) -> None:
    model = SinkAttention()
    tap = make_tap(model)

    tap.arm()
    model(*inputs())

    assert "sinks" not in tap.take()[0].tensors
