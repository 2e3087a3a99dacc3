"""Captured attention that has to fit a number of bytes."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from fake_trainer import make_attention
from hypothesis import given
from hypothesis import strategies as st

from trackside.capture.budget import MIN_ROWS, fit
from trackside.capture.captured import CapturedAttention

HEADS, KEYS, WIDTH = 2, 64, 8
CALL = make_attention(HEADS, 1000, KEYS)


def captured(layer: int, rows: int, **tensors: torch.Tensor) -> CapturedAttention:
    """Build a call whose query rows carry their own position."""
    positions = torch.arange(rows, dtype=torch.float32)
    own = {
        "query": positions[None, :, None].expand(HEADS, rows, WIDTH).contiguous(),
        "key": torch.zeros(HEADS, KEYS, WIDTH),
    }
    call = replace(CALL, layer=layer, query_rows=tuple(3 * row for row in range(rows)))
    return CapturedAttention(call, own | tensors)


def num_bytes(attention: Sequence[CapturedAttention]) -> int:
    distinct = {id(t): t for entry in attention for t in entry.tensors.values()}
    return sum(t.numel() * t.element_size() for t in distinct.values())


def test_what_fits_stays_as_it_is() -> None:
    attention = (captured(0, 40), captured(1, 40))

    fitted = fit(attention, num_bytes(attention))

    assert fitted.attention is attention
    assert fitted.shrunk == ()


def test_rows_go_before_layers_and_kept_rows_are_exact() -> None:
    attention = tuple(captured(layer, 256) for layer in range(3))
    keys = 3 * HEADS * KEYS * WIDTH * 4

    # Rows of all queries: 256, 128, 64; the budget holds 64 and a bit.
    fitted = fit(attention, keys + 3 * HEADS * 70 * WIDTH * 4)

    assert [entry.call.layer for entry in fitted.attention] == [0, 1, 2]
    for entry in fitted.attention:
        rows = [i * 255 // 63 for i in range(64)]
        assert entry.call.query_rows == tuple(3 * row for row in rows)
        assert entry.tensors["query"].shape == (HEADS, 64, WIDTH)
        assert entry.tensors["query"][1, :, 2].tolist() == rows
    assert fitted.shrunk == (
        f"attention of {num_bytes(attention)} bytes has to fit {keys + 3 * HEADS * 70 * WIDTH * 4}",
        "64 of 256 query rows are kept",
    )


def test_layers_in_the_middle_go_first() -> None:
    attention = tuple(captured(layer, 32) for layer in range(5))
    of_one = HEADS * (MIN_ROWS + KEYS) * WIDTH * 4  # float32

    kept = [
        [entry.call.layer for entry in fit(attention, count * of_one).attention]
        for count in (4, 3, 2, 1, 0)
    ]

    assert kept == [[0, 1, 3, 4], [0, 1, 4], [0, 4], [0], []]
    assert fit(attention, 0).shrunk[-1] == "left out: decoder self_attention layer 0"


def test_a_shared_mask_counts_once_and_stays_shared() -> None:
    mask = torch.ones(1, 128, KEYS, dtype=torch.bool)
    mask[0, 5] = False
    attention = (captured(0, 128, mask=mask), captured(1, 128, mask=mask))

    fitted = fit(attention, num_bytes(attention) - 1)

    first, second = fitted.attention
    assert first.tensors["mask"] is second.tensors["mask"]
    assert first.tensors["mask"].shape == (1, 64, KEYS)
    assert first.tensors["mask"].is_contiguous()


@given(
    st.lists(st.integers(1, 300), min_size=1, max_size=6),
    st.integers(-10, 200_000),
)
def test_the_result_always_fits_and_is_the_same_again(rows: list[int], budget: int) -> None:
    attention = tuple(captured(layer, count) for layer, count in enumerate(rows))

    fitted, again = fit(attention, budget), fit(attention, budget)

    assert num_bytes(fitted.attention) <= max(budget, 0)
    assert [entry.call for entry in fitted.attention] == [entry.call for entry in again.attention]
    assert fitted.shrunk == again.shrunk
    assert bool(fitted.shrunk) == (num_bytes(attention) > budget)
    for entry in fitted.attention:
        assert len(entry.call.query_rows) >= min(MIN_ROWS, rows[entry.call.layer])
        assert entry.tensors["query"][0, :, 0].tolist() == [
            row // 3 for row in entry.call.query_rows
        ]


@pytest.mark.parametrize("rows", [1, MIN_ROWS])
def test_few_rows_are_not_made_fewer(rows: int) -> None:
    attention = (captured(0, rows),)

    assert fit(attention, num_bytes(attention) - 1).attention == ()
