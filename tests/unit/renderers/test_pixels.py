"""The pixels of heat maps, against viridis on a square-root scale."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from matplotlib import colormaps

from tracksided.renderers.heatmap import Heatmap
from tracksided.renderers.layer_comparison import LayerComparison
from tracksided.renderers.multi_head import MultiHead
from tracksided.reports import Picture
from tracksided.stages import AttentionMap, StepData

MakeMap = Callable[..., AttentionMap]
MakeStep = Callable[..., StepData]
Decode = Callable[[Picture], np.ndarray]

BLACK = (0, 0, 0)
LEVELS = 223  # steps of colour between weight 0 and 1


def colour(weight: float) -> list[int]:
    shade = round(math.sqrt(weight) * LEVELS) / LEVELS
    return [round(255 * part) for part in colormaps["viridis"](shade)[:3]]


def longest_run(row: np.ndarray) -> tuple[int, int]:
    """Return start and end of the longest run of True: text has many of them, but no long line."""
    ends = np.flatnonzero(np.diff(np.concatenate([[0], row.astype(int), [0]])))
    return max(zip(ends[::2], ends[1::2], strict=True), key=lambda e: e[1] - e[0], default=(0, 0))


def cells_of(pixels: np.ndarray, num_rows: int, num_columns: int) -> np.ndarray:
    """Cut the first map out by its frame; return the middle pixel of every cell."""
    is_black = (pixels == BLACK).all(axis=2)
    runs = [longest_run(row) for row in is_black]
    top, bottom = [index for index, (start, end) in enumerate(runs) if end - start > 100][:2]
    inside = is_black[(top + bottom) // 2]
    left, right = runs[top][0], runs[top][1] - 1
    assert inside[[left, right]].all()
    area = pixels[top + 1 : bottom, left + 1 : right]
    assert area.shape[0] % num_rows == 0
    assert area.shape[1] % num_columns == 0
    rows = (np.arange(num_rows) * 2 + 1) * area.shape[0] // (2 * num_rows)
    columns = (np.arange(num_columns) * 2 + 1) * area.shape[1] // (2 * num_columns)
    return area[np.ix_(rows, columns)]


def expect(weights: np.ndarray) -> np.ndarray:
    return np.array([[colour(float(weight)) for weight in row] for row in weights])


@pytest.mark.parametrize("num_heads", [1, 2, 4])
def test_each_cell_has_the_colour_of_the_mean_over_heads(
    make_map: MakeMap, make_step: MakeStep, decode: Decode, num_heads: int
) -> None:
    weights = np.random.default_rng(0).dirichlet(np.ones(7), size=(num_heads, 5))

    (picture,) = Heatmap().render(make_step([make_map(weights)]))

    found = cells_of(decode(picture), 5, 7)
    np.testing.assert_array_equal(found, expect(weights.mean(axis=0)))


def test_the_scale_is_fixed_from_zero_to_one(
    make_map: MakeMap, make_step: MakeStep, decode: Decode
) -> None:
    weights = np.array([[[0.0, 1.0, 0.25, 0.01]]])

    (picture,) = Heatmap().render(make_step([make_map(weights)]))

    found = cells_of(decode(picture), 1, 4)
    np.testing.assert_array_equal(found, expect(weights[0]))


def test_a_diagonal_of_single_weights_survives_pooling(
    make_map: MakeMap, make_step: MakeStep, decode: Decode
) -> None:
    attention = make_map(np.eye(1500)[None])

    (picture,) = Heatmap().render(make_step([attention]))

    # 3 x 3 weights per cell: 500 cells, the diagonal in full colour
    found = cells_of(decode(picture), 500, 500)
    is_diagonal = np.eye(500, dtype=np.bool_)
    assert (found[is_diagonal] == colour(1)).all()
    assert (found[~is_diagonal] == colour(0)).all()


def test_what_is_not_a_number_is_grey(
    make_map: MakeMap, make_step: MakeStep, decode: Decode
) -> None:
    weights = np.array([[[np.nan, 0.5]]])

    (picture,) = Heatmap().render(make_step([make_map(weights)]))

    nan, sound = cells_of(decode(picture), 1, 2)[0]
    assert len(set(nan.tolist())) == 1
    assert sound.tolist() == colour(0.5)


def test_weights_outside_of_the_scale_take_its_ends(
    make_map: MakeMap, make_step: MakeStep, decode: Decode
) -> None:
    weights = np.array([[[-1.0, np.inf]]])

    (picture,) = Heatmap().render(make_step([make_map(weights)]))

    np.testing.assert_array_equal(cells_of(decode(picture), 1, 2), expect(np.array([[0, 1]])))


@pytest.mark.parametrize("renderer", [MultiHead(), LayerComparison()])
def test_the_first_panel_of_a_grid_shows_its_map(
    make_map: MakeMap,
    make_step: MakeStep,
    decode: Decode,
    renderer: MultiHead | LayerComparison,
) -> None:
    weights = np.random.default_rng(1).dirichlet(np.ones(6), size=(4, 3))
    maps = [make_map(weights), make_map(weights[::-1], layer=1)]
    expected = weights[0] if isinstance(renderer, MultiHead) else weights.mean(axis=0)

    picture = next(iter(renderer.render(make_step(maps))))

    np.testing.assert_array_equal(cells_of(decode(picture), 3, 6), expect(expected))


def test_steps_differ_in_their_title_only(
    make_map: MakeMap, make_step: MakeStep, decode: Decode
) -> None:
    attention = make_map(np.full((1, 4, 4), 0.25))

    pictures = [next(iter(Heatmap().render(make_step([attention], step)))) for step in (1, 2)]

    first, second = map(decode, pictures)
    changed = np.flatnonzero((first != second).any(axis=(1, 2)))
    assert changed.size
    assert changed.max() < 40  # pixels from the top


def test_ink_stays_inside_of_the_picture(
    make_map: MakeMap, make_step: MakeStep, decode: Decode
) -> None:
    attention = make_map(np.full((2, 3, 4000), 1 / 4000), module="a.very.long.module.name" * 12)

    for renderer in (Heatmap(), MultiHead()):
        for picture in renderer.render(make_step([attention])):
            pixels = decode(picture)
            edges = (pixels[[0, -1]], pixels[:, [0, -1]])
            assert all((edge == 255).all() for edge in edges)
