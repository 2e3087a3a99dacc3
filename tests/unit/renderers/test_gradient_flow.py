"""The pixels of the gradient flow, against the values that they show."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from tracksided.renderers.gradient_flow import COLOURS, GradientFlow, _end_of
from tracksided.renderers.lettering import Style, width_px
from tracksided.renderers.log_chart import LogChart, LogScale
from tracksided.renderers.palette import WHITE
from tracksided.reports import Picture
from tracksided.stages import StepData

MakeStep = Callable[..., StepData]
Decode = Callable[[Picture], np.ndarray]

NORM, NORM_RANGE, LARGEST, RATIO, RATIO_RANGE, BROKEN, ZERO = (
    tuple(bytes.fromhex(colour)) for colour in COLOURS
)
CHART_PX, GRADIENT_PX, RATIO_PX = 600, 260, 150


def parameter(name: str = "w", **values: float | bool | None) -> dict[str, object]:
    usual = {"norm": 1.0, "abs_max": 1e-6, "update_ratio": None, "nonfinite": False}
    return {"name": name, **usual, **values}


def chart_of(
    make_step: MakeStep, decode: Decode, parameters: Sequence[Mapping[str, Any]]
) -> np.ndarray:
    """Return the pixels below the legend and between the frames' sides."""
    step = make_step(gradient_statistics={"parameters": parameters})
    (picture,) = GradientFlow().render(step)
    pixels = decode(picture)
    is_black = (pixels == 0).all(axis=2)
    top = int(np.flatnonzero(is_black.sum(axis=1) > 550)[0])
    right = int(np.flatnonzero(is_black[top])[-1])
    return pixels[top + 1 :, right - CHART_PX : right]


def share(pixels: np.ndarray, colour: tuple[int, ...], column: int, num_columns: int) -> float:
    """Return how much of the gradients' chart has a colour in the middle of a column."""
    x = (2 * column + 1) * (pixels.shape[1] // num_columns) // 2
    return float((pixels[:GRADIENT_PX, x] == colour).all(axis=1).mean())


def test_bars_are_as_high_as_the_norm_has_decades(make_step: MakeStep, decode: Decode) -> None:
    norms = (10.0, 1.0, 1e-2, 1e-5)

    pixels = chart_of(make_step, decode, [parameter(norm=norm) for norm in norms])

    # The scale has seven decades, from 1e-6 to 1e1; three pixels at the foot are the element's.
    for column, norm in enumerate(norms):
        expected = (math.log10(norm) + 6) / 7
        assert share(pixels, NORM, column, 4) == pytest.approx(expected, abs=5 / GRADIENT_PX)


def test_scales_stay_until_a_value_lies_beyond() -> None:
    usual = LogScale.around((-6, 1), np.array([1e-3, np.nan, 0.0, np.inf]), 141)
    wider = LogScale.around((-6, 1), np.array([3e-8, 500.0]), 100)
    huge = LogScale.around((-6, 1), np.array([1e-45, 1e30]), 100)

    assert (usual.low, usual.high) == (-6, 1)
    assert (wider.low, wider.high) == (-8, 3)
    assert (huge.low, huge.high) == (14, 30)
    assert usual.rows(np.array([10.0, 1.0, 1e-6, 1e-9])).tolist() == [0, 20, 140, 140]
    assert (usual.rows(np.array([0.0, -1.0, np.nan])) > 141).all()
    assert list(usual.decades) == list(range(-6, 2, 2))  # five labels of 24 pixels have room


def test_parameters_that_share_a_column_show_their_range(
    make_step: MakeStep, decode: Decode
) -> None:
    parameters = [parameter(f"p{i}", norm=(1.0, 1e-3)[i % 2], abs_max=1e-1) for i in range(400)]

    pixels = chart_of(make_step, decode, parameters)

    for column in (0, 100, 199):
        assert share(pixels, NORM, column, 200) == pytest.approx(3 / 7, abs=2 / GRADIENT_PX)
        assert share(pixels, NORM_RANGE, column, 200) == pytest.approx(3 / 7, abs=6 / GRADIENT_PX)
        assert share(pixels, LARGEST, column, 200) == pytest.approx(5 / GRADIENT_PX)


def test_broken_and_dead_parameters_are_marked(make_step: MakeStep, decode: Decode) -> None:
    parameters = [
        parameter("sound"),
        parameter("broken", norm=math.nan, abs_max=math.inf, nonfinite=True),
        parameter("dead", norm=0.0, abs_max=0.0),
        parameter("unknown", norm=None, abs_max=None, nonfinite=None),
    ]

    pixels = chart_of(make_step, decode, parameters)

    assert share(pixels, BROKEN, 1, 4) == pytest.approx(0.5, abs=0.02)
    assert share(pixels, ZERO, 2, 4) == pytest.approx(12 / GRADIENT_PX)
    for colour in (NORM, LARGEST, BROKEN, ZERO):
        assert share(pixels, colour, 3, 4) == 0


def test_update_ratios_have_a_dash_at_their_value(make_step: MakeStep, decode: Decode) -> None:
    ratios = (1e-1, 1e-3, 1e-5)

    pixels = chart_of(make_step, decode, [parameter(update_ratio=ratio) for ratio in ratios])

    is_dash = (pixels == RATIO).all(axis=2)
    frames = np.flatnonzero((pixels == 0).all(axis=(1, 2)))  # below the gradients, then around
    top = int(frames[1]) + 1
    for column, ratio in enumerate(ratios):
        x = (2 * column + 1) * (pixels.shape[1] // 3) // 2
        rows = np.flatnonzero(is_dash[top : top + RATIO_PX, x])
        expected = (-1 - math.log10(ratio)) / 5 * (RATIO_PX - 1)
        assert abs(rows.min() - expected) <= 3
        assert abs(rows.max() - expected) <= 3


def test_what_all_names_begin_with_is_said_once(make_step: MakeStep, decode: Decode) -> None:
    prefix = "model.language_model._orig_mod.decoder.layers."
    names = [f"{i}.self_attn.q_proj.weight" for i in range(6)]

    def height(names: Sequence[str]) -> int:
        parameters = [parameter(name) for name in names]
        step = make_step(gradient_statistics={"parameters": parameters})
        (picture,) = GradientFlow().render(step)
        return decode(picture).shape[0]

    # One more line of text above, not two hundred pixels of names below.
    assert height([prefix + name for name in names]) - height(names) == 24


@pytest.mark.parametrize("count", [1, 2, 39, 40, 41, 199, 201, 2000])
def test_any_number_of_parameters_fits(make_step: MakeStep, decode: Decode, count: int) -> None:
    parameters = [parameter(f"layers.{i}." + "block." * 30 + "w") for i in range(count)]
    step = make_step(gradient_statistics={"parameters": parameters})

    (picture,) = GradientFlow().render(step)

    pixels = decode(picture)
    assert pixels.shape[1] < 760
    assert pixels.shape[0] < 950
    assert all((edge == 255).all() for edge in (pixels[[0, -1]], pixels[:, [0, -1]]))


def test_a_chart_without_values_is_empty() -> None:
    scale = LogScale.around((-6, 1), np.array([]), 50)
    chart = LogChart(scale, 3, 10)
    unknown = np.full(3, np.nan)
    chart.fill(unknown, 1)
    chart.band(unknown, unknown, 1)
    chart.mark(unknown, 1)
    image = np.full((60, 100), WHITE, dtype=np.uint8)

    chart.draw(image, 5, 60)

    assert (image != 1).all()


@pytest.mark.parametrize("length", [0, 10, 40, 500])
def test_a_long_name_keeps_its_end(length: int) -> None:
    name = "block." * length + "weight"

    shown = _end_of(name, Style(10))

    assert width_px(shown, Style(10)) <= 300
    assert name.endswith(shown.removeprefix("..."))
    assert shown.endswith("weight")
