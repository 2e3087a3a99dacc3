"""The parts of a picture: pooling, axes, lettering, PNG."""

import io
import itertools
import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from tracksided.renderers.axes import TICK_STYLE, make_axis
from tracksided.renderers.canvas import Layout, Panel, build_canvas
from tracksided.renderers.lettering import Style, fit, line, paste, width_px
from tracksided.renderers.palette import NUM_COLOURS, WHITE, palette_bytes
from tracksided.renderers.png import encode
from tracksided.renderers.pooling import pool

STYLE = Style(11)


@settings(max_examples=50)
@given(
    shape=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    blocks=st.tuples(st.integers(1, 10), st.integers(1, 10)),
    seed=st.integers(0, 2**32),
)
def test_a_cell_is_the_largest_weight_of_its_block(
    shape: tuple[int, int], blocks: tuple[int, int], seed: int
) -> None:
    weights = np.random.default_rng(seed).random(shape, dtype=np.float32)

    found = pool(weights, *blocks)

    expected = [
        [
            max(weights[row, column] for row in rows for column in columns)
            for columns in _blocks(shape[1], blocks[1])
        ]
        for rows in _blocks(shape[0], blocks[0])
    ]
    np.testing.assert_array_equal(found, expected)


def _blocks(length: int, size: int) -> list[range]:
    return [range(start, min(start + size, length)) for start in range(0, length, size)]


@settings(max_examples=50)
@given(
    image=st.tuples(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32)).map(
        lambda spec: np.random.default_rng(spec[2]).integers(0, 256, spec[:2], dtype=np.uint8)
    )
)
def test_a_png_decodes_to_its_indices(image: np.ndarray) -> None:
    with Image.open(io.BytesIO(encode(image))) as decoded:
        assert decoded.mode == "P"
        assert decoded.palette.tobytes() == palette_bytes()
        np.testing.assert_array_equal(np.asarray(decoded), image)


def test_the_palette_ends_in_black_to_white() -> None:
    colours = np.frombuffer(palette_bytes(), dtype=np.uint8).reshape(256, 3)

    assert colours[0].tolist() == [68, 1, 84]  # viridis begins
    assert colours[NUM_COLOURS - 1].tolist() == [253, 231, 37]  # and ends
    assert colours[NUM_COLOURS].tolist() == [0, 0, 0]
    assert colours[WHITE].tolist() == [255, 255, 255]


@settings(max_examples=100)
@given(
    positions=st.lists(st.integers(0, 20_000), min_size=1, max_size=600, unique=True).map(sorted),
    side=st.integers(128, 640),
    is_upright=st.booleans(),
)
@example(positions=[1, 668, 2000], side=129, is_upright=False)  # unevenly, but not by far
@example(positions=[0, 7, 17], side=129, is_upright=False)
def test_ticks_lie_on_the_axis_in_order_and_do_not_touch(
    positions: list[int], side: int, *, is_upright: bool
) -> None:
    axis = make_axis(np.array(positions), max_cells=512, max_px=side, is_upright=is_upright)

    places = [px for px, _ in axis.ticks]
    labels = [int(label) for _, label in axis.ticks]
    assert axis.ticks
    assert places == sorted(set(places))
    assert labels == sorted(set(labels))
    assert positions[0] <= labels[0]
    assert labels[-1] <= positions[-1]
    assert places[0] >= 0
    assert places[-1] < axis.length_px
    assert (axis.num_cells - 1) * axis.block < len(positions) <= axis.num_cells * axis.block
    if not is_upright:
        ends = [
            (px - width_px(t, TICK_STYLE) / 2, px + width_px(t, TICK_STYLE) / 2)
            for px, t in axis.ticks
        ]  # fmt: skip - the sides of each label
        assert all(a[1] < b[0] for a, b in itertools.pairwise(ends))


def test_ticks_of_thinned_rows_show_true_positions() -> None:
    rows = np.arange(0, 4096, 8)  # 512 rows, one pixel each

    axis = make_axis(rows, max_cells=512, max_px=640, is_upright=True)

    assert axis.block == 1
    assert axis.ticks == tuple((position // 8, str(position)) for position in range(0, 4096, 1000))


def test_ticks_of_uneven_rows_name_rows_that_are_there() -> None:
    rows = np.array([0, 1, 2, 3, 500, 501, 502, 4000, 4001, 4090])

    axis = make_axis(rows, max_cells=512, max_px=100, is_upright=True)

    by_row = {px // 10: int(label) for px, label in axis.ticks}
    assert by_row == {row: int(rows[row]) for row in by_row}
    assert len(by_row) > 1


def test_pooled_ticks_lie_on_the_cell_of_their_position() -> None:
    axis = make_axis(np.arange(1024), max_cells=512, max_px=512, is_upright=False)

    assert axis.block == 2
    assert all(px == int(label) // 2 for px, label in axis.ticks)


def test_every_token_of_a_short_sequence_is_named() -> None:
    tokens = ("The", "cat", "a\nb", "", "x" * 200)

    axis = make_axis(np.arange(5), max_cells=512, max_px=512, is_upright=False, tokens=tokens)

    assert axis.is_turned
    assert [label for _, label in axis.ticks][:4] == ["The", "cat", "a\\nb", ""]
    assert axis.ticks[4][1].startswith("xxx")
    assert width_px(axis.ticks[4][1], axis.style) <= 104
    assert [px for px, _ in axis.ticks] == [102 * i + 51 for i in range(5)]


@pytest.mark.parametrize("rows", [np.arange(600), np.arange(0, 4096, 8)], ids=["all", "kept"])
def test_tokens_of_a_long_sequence_are_thinned_and_numbered(rows: np.ndarray) -> None:
    tokens = tuple(f"t{i}" for i in range(4096))

    axis = make_axis(rows, max_cells=512, max_px=512, is_upright=True, tokens=tokens)

    places = [px for px, _ in axis.ticks]
    assert all(b - a >= axis.style.height_px for a, b in itertools.pairwise(places))
    assert len(places) > 15
    for px, label in axis.ticks:
        position = int(label.split()[0])
        assert label == f"{position} t{position}"
        index = int(np.flatnonzero(rows == position)[0])
        assert px // axis.cell_px == index // axis.block


def test_text_is_as_wide_as_its_letters_and_kept() -> None:
    short, long = line("step", STYLE), line("step 100", STYLE)

    assert short.shape[1] < long.shape[1]
    assert short.shape[0] == STYLE.height_px
    assert line("step", STYLE) is short
    assert (short < WHITE).any()


def test_letters_do_not_leave_their_line() -> None:
    drawn = line("gjpqy|()[]{}AWQ@$_", Style(13, is_bold=True))

    assert (drawn[[0, -1]] == WHITE).all()


@pytest.mark.parametrize("text", ["", "\n\t", "\u4e2d\u6587", "x" * 3000])
def test_any_text_fits(text: str) -> None:
    drawn = fit(text, STYLE, 300)

    assert drawn.shape[1] <= 300


def test_a_long_text_keeps_both_ends() -> None:
    text = "model.decoder.layers.0." + "wrapped." * 20 + "self_attn"

    drawn = fit(text, STYLE, 300)

    head, tail = line("model.deco", STYLE), line("_attn", STYLE)
    width = head.shape[1] - 4
    np.testing.assert_array_equal(drawn[:, :width], head[:, :width])
    np.testing.assert_array_equal(drawn[:, 8 - tail.shape[1] :], tail[:, 8:])


def test_pasted_text_is_cut_at_the_edges() -> None:
    canvas = np.full((10, 10), WHITE, dtype=np.uint8)

    for top, left in ((-5, -5), (5, 5), (0, -100), (50, 50)):
        paste(canvas, np.zeros((8, 8), dtype=np.uint8), top=top, left=left)

    assert (canvas[:3, :3] == 0).all()
    assert (canvas[5:, 5:] == 0).all()
    assert (canvas == 0).sum() == 9 + 25


def test_a_canvas_is_built_once_per_layout() -> None:
    axis = make_axis(np.arange(9), max_cells=512, max_px=640, is_upright=True)
    layout = Layout((Panel(axis, axis),), 1, 3, has_captions=False)
    same = Layout((Panel(axis, axis),), 1, 3, has_captions=False)

    first = build_canvas(layout)
    before = first.background.copy()
    first.draw(["a", "b", "c"], [], [np.zeros((9, 9), dtype=np.uint8)])

    assert build_canvas(same) is first
    np.testing.assert_array_equal(first.background, before)
    assert math.prod(before.shape) < 2**20
