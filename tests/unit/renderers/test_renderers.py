"""What every renderer must stand, and what each names its pictures."""

import io
import math
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from trackside.checks import PICTURES
from tracksided.catalog import RENDERERS, RUN_RENDERERS
from tracksided.renderers.maps import map_panel
from tracksided.reports import Picture
from tracksided.stages import AttentionMap, Renderer, StepData

MakeMap = Callable[..., AttentionMap]
MakeStep = Callable[..., StepData]
Decode = Callable[[Picture], np.ndarray]
BY_NAME = {renderer.name: renderer for renderer in RENDERERS}

every_renderer = pytest.mark.parametrize("renderer", RENDERERS, ids=lambda r: r.name)
every_map_renderer = pytest.mark.parametrize(
    "renderer", [r for r in RENDERERS if r.name != "gradient_flow"], ids=lambda r: r.name
)


def parameter(name: str = "w", **values: float | bool | None) -> dict[str, object]:
    return {
        "name": name,
        "norm": 1.0,
        "abs_max": 0.1,
        "update_ratio": 1e-3,
        "nonfinite": False,
        **values,
    }


def test_the_words_of_visualize_each_have_their_renderer() -> None:
    names = {"heatmap", "multi_head", "layer_comparison", "gradient_flow", "animation"}
    assert names <= set(BY_NAME)
    over_runs = {renderer.name for renderer in RUN_RENDERERS}
    assert {*BY_NAME, *over_runs, "statistics"} == set(PICTURES)  # `statistics` draws nothing


@every_renderer
def test_a_step_with_nothing_to_draw_yields_nothing(
    make_step: MakeStep, renderer: Renderer
) -> None:
    assert list(renderer.render(make_step())) == []
    assert list(renderer.render(make_step(gradient_statistics={"parameters": []}))) == []


@every_map_renderer
@pytest.mark.parametrize(
    ("shape", "fill"),
    [
        ((1, 1, 1), 1.0),
        ((2, 3, 3), math.nan),
        ((1, 2, 3), 3e38),
        ((3, 1, 5000), 2e-4),
        ((1, 600, 2), 0.5),
        ((65, 4, 4), 0.25),
    ],
    ids=["one", "nan", "huge", "wide", "tall", "many heads"],
)
def test_odd_maps_are_drawn(
    make_map: MakeMap,
    make_step: MakeStep,
    renderer: Renderer,
    shape: tuple[int, int, int],
    fill: float,
) -> None:
    attention = make_map(np.full(shape, fill, dtype=np.float32))

    pictures = list(renderer.render(make_step([attention])))

    assert len(pictures) == 1
    with Image.open(io.BytesIO(pictures[0].png)) as image:
        assert image.size == (pictures[0].width_px, pictures[0].height_px)
        assert len(set(image.convert("L").tobytes())) > 2


@every_renderer
def test_equal_steps_give_equal_bytes(
    make_map: MakeMap, make_step: MakeStep, renderer: Renderer
) -> None:
    weights = np.random.default_rng(0).dirichlet(np.ones(6), size=(2, 6))
    step = make_step([make_map(weights)], gradient_statistics={"parameters": [parameter()]})

    first, second = ([p.png for p in renderer.render(step)] for _ in range(2))

    assert first == second


def test_pictures_are_named_after_stack_layer_and_kind(
    make_map: MakeMap, make_step: MakeStep
) -> None:
    weights = np.full((2, 3, 3), 1 / 3)
    step = make_step(
        [
            make_map(weights, stack="encoder"),
            make_map(weights, stack="encoder", layer=5),
            make_map(weights),
            make_map(weights[:, :, :2], type="cross_attention", layer=1),
        ]
    )

    names = {
        name: {picture.file_name: picture.tag for picture in renderer.render(step)}
        for name, renderer in BY_NAME.items()
    }

    assert names["heatmap"] == {
        "encoder_layer0_self_attn.png": "attention/encoder_layer0_self",
        "encoder_layer5_self_attn.png": "attention/encoder_layer5_self",
        "decoder_layer0_self_attn.png": "attention/decoder_layer0_self",
        "decoder_layer1_cross_attn.png": "attention/decoder_layer1_cross",
    }
    assert names["multi_head"] == {
        "encoder_layer0_self_attn_heads.png": "attention/encoder_layer0_self_heads",
        "encoder_layer5_self_attn_heads.png": "attention/encoder_layer5_self_heads",
        "decoder_layer0_self_attn_heads.png": "attention/decoder_layer0_self_heads",
        "decoder_layer1_cross_attn_heads.png": "attention/decoder_layer1_cross_heads",
    }
    assert names["layer_comparison"] == {
        "encoder_layer_comparison.png": "attention/encoder_layer_comparison",
        "decoder_layer_comparison.png": "attention/decoder_layer_comparison",
        "decoder_cross_layer_comparison.png": "attention/decoder_cross_layer_comparison",
    }


@pytest.mark.parametrize(
    ("kind", "num_queries", "num_keys", "expected"),
    [
        ("self_attention", 4, 4, (True, True)),
        ("self_attention", 4, 9, (True, False)),  # behind a cache
        ("cross_attention", 4, 6, (True, False)),
        ("cross_attention", 6, 4, (False, True)),
        ("cross_attention", 4, 4, (False, False)),  # of which sequence they are is not known
        ("self_attention", 5, 5, (False, False)),
    ],
)
def test_tokens_name_the_axes_of_their_length(
    make_map: MakeMap, kind: str, num_queries: int, num_keys: int, expected: tuple[bool, bool]
) -> None:
    tokens = ("the", "cat", "sat", ".")
    attention = make_map(np.zeros((1, num_queries, num_keys)), type=kind)

    panel = map_panel("", attention, tokens, attention.weights[0])

    found = (panel.query_tokens, panel.key_tokens)
    assert found == tuple(tokens if is_named else () for is_named in expected)


@every_map_renderer
def test_tokens_change_a_picture(
    make_map: MakeMap, make_step: MakeStep, renderer: Renderer
) -> None:
    attention = make_map(np.full((1, 3, 3), 1 / 3))

    pictures = [
        next(iter(renderer.render(make_step([attention], tokens=tokens)))).png
        for tokens in ((), ("a", "b", "c"), ("a", "b", "d"))
    ]

    assert len(set(pictures)) == 3


def test_layers_of_different_lengths_are_compared(
    make_map: MakeMap, make_step: MakeStep, decode: Decode
) -> None:
    maps = [make_map(np.full((1, n, n), 1 / n), layer=n) for n in (3, 50, 700)]

    (picture,) = BY_NAME["layer_comparison"].render(make_step(maps))

    assert decode(picture).shape[1] > 2 * 256


@pytest.mark.parametrize(
    "values",
    [
        {"norm": 0.0, "abs_max": 0.0, "update_ratio": None},
        {"norm": math.nan, "abs_max": math.inf, "update_ratio": math.nan, "nonfinite": True},
        {"norm": None, "abs_max": None, "update_ratio": None, "nonfinite": None},
        {"norm": 1e-45, "abs_max": 3e38},
    ],
    ids=["zero", "nan", "unknown", "far apart"],
)
def test_gradient_flow_stands_odd_values(
    make_step: MakeStep, decode: Decode, values: dict[str, float | None]
) -> None:
    parameters = [parameter(), parameter("b", **values), parameter("a$b$c_{" * 9)]

    step = make_step(gradient_statistics={"parameters": parameters * 20})
    (picture,) = BY_NAME["gradient_flow"].render(step)

    assert decode(picture).std() > 0
