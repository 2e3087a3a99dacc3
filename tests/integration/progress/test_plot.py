"""Pictures of real and of odd curves: drawn without a warning, and what they show is there."""

import io
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import matplotlib.figure
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from PIL import Image

from tracksided.errors import ReportError
from tracksided.progress.curve import Kind, Series, TrainingCurve
from tracksided.progress.plot import COLOURS, EVALUATION_COLOUR, draw

pytestmark = pytest.mark.integration

Drawn = Callable[..., list[Axes]]


def make(count: int = 50, *, level: float = 2.0, **changes: object) -> TrainingCurve:
    steps = np.arange(1, count + 1) * 10
    generator = np.random.default_rng(count)
    curve = TrainingCurve(
        name="run",
        source=Path("run"),
        kind=Kind.HISTORY,
        loss=Series(steps, level + np.exp(-steps / 100.0)),
        learning_rate=Series(steps, 1e-3 * steps / steps[-1]),
        gradient_norm=Series(steps, np.exp(generator.normal(0, 0.4, count))),
        step=int(steps[-1]),
    )
    return replace(curve, **changes)  # type: ignore[arg-type] # names of fields


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Drawn:
    """Draws curves and returns the four panels."""
    figures: list[matplotlib.figure.Figure] = []
    save = matplotlib.figure.Figure.savefig

    def keep(figure: matplotlib.figure.Figure, *args: object, **kwargs: object) -> None:
        figures.append(figure)
        save(figure, *args, **kwargs)

    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", keep)

    def draw_panels(*curves: TrainingCurve) -> list[Axes]:
        image = Image.open(io.BytesIO(draw(curves, "png")))
        assert image.size == (1375, 902)
        return list(figures[-1].axes)

    return draw_panels


def line(axes: Axes, label: str) -> np.ndarray:
    """Return [steps, values] of a line."""
    return next(ln for ln in axes.lines if ln.get_label() == label).get_xydata().T


def legend(axes: Axes) -> list[str]:
    return [text.get_text() for text in axes.get_legend().get_texts()]


def test_panels_show_the_values_of_the_curve(drawn: Drawn) -> None:
    held_out = Series.of([100, 300], [2.6, 2.2])
    curve = make(evaluation={"eval_loss": held_out}, max_gradient_norm=0.9)

    loss, rate, norm, histogram = drawn(curve)

    np.testing.assert_array_equal(line(loss, "training"), [curve.loss.steps, curve.loss.values])
    assert legend(loss) == ["training", "moving average of 3", "evaluation"]
    (dashed,) = [ln for ln in loss.lines if to_hex(ln.get_color()).upper() == EVALUATION_COLOUR][:1]
    np.testing.assert_array_equal(dashed.get_ydata(), held_out.values)
    np.testing.assert_array_equal(rate.lines[0].get_ydata(), curve.learning_rate.values)
    assert norm.get_yscale() == "log"
    assert legend(norm) == ["norm", "geometric mean of 3", "clipped to 0.9"]
    counts = histogram.patches[0].get_data().values
    assert counts.sum() == 50


def test_several_curves_have_a_colour_each_and_share_every_panel(drawn: Drawn) -> None:
    curves = [make(name="a"), make(60, name="b", level=3.0), make(6, name="c")]

    loss, rate, norm, histogram = drawn(*curves)

    assert legend(loss) == ["a", "b", "c"]
    for axes in (loss, rate, norm):
        colours = [to_hex(ln.get_color()).upper() for ln in axes.lines]
        assert dict.fromkeys(colours) == dict.fromkeys(COLOURS[:3])
    shares = [patch.get_data().values.sum() for patch in histogram.patches]
    np.testing.assert_allclose(shares, 1.0)


def test_colours_differ_for_the_colour_blind() -> None:
    # Viénot 1999: what a deuteranope and a protanope see of linear RGB.
    views = {
        "deuteranope": [[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]],
        "protanope": [[0.11238, 0.88762, 0], [0.11238, 0.88762, 0], [0.00401, -0.00401, 1]],
    }
    rgb = np.array([[int(c[i : i + 2], 16) / 255 for i in (1, 3, 5)] for c in COLOURS[:5]])
    for matrix in views.values():
        seen = (rgb**2.2 @ np.array(matrix).T).clip(0, 1) ** (1 / 2.2)
        distances = np.linalg.norm(seen[:, None] - seen[None], axis=-1)
        assert distances[~np.eye(5, dtype=bool)].min() > 0.25


def test_steps_with_nan_are_marked_and_counted(drawn: Drawn) -> None:
    values = np.where(np.arange(50) % 10 == 0, math.nan, 2.0)
    curve = make()

    loss, _, norm, _ = drawn(replace(curve, loss=Series(curve.loss.steps, values)))

    assert "loss NaN or infinite (5)" in legend(loss)
    assert not any("NaN" in text for text in legend(norm))


def test_panel_without_a_curve_says_why(drawn: Drawn) -> None:
    broken, zeros = Series.of([10, 20], [math.nan, math.inf]), Series.of([10], [0.0])
    curve = make(loss=broken, learning_rate=Series.of([], []), gradient_norm=zeros)

    panels = drawn(curve)

    said = [[text.get_text() for text in axes.texts] for axes in panels]
    assert said == [
        ["none of 2 values can be drawn"],
        ["no learning rate was logged"],
        ["none of 1 values can be drawn"],
        ["none of 2 values can be drawn"],
    ]


@pytest.mark.parametrize(
    "changes",
    [
        {"learning_rate": Series.of([], []), "gradient_norm": Series.of([], [])},
        {"loss": Series.of([], [])},
        {"loss": Series.of([5], [math.nan])},
        {"loss": Series.of([5, 6], [0.0, 0.0])},
        {"loss": Series.of([5, 6], [-3.0, 1e30])},
        {"loss": Series.of([5, 6, 7], [1e-8, 1.0, 1e8])},
        {"gradient_norm": Series.of([5, 6], [0.0, math.inf])},
        {"gradient_norm": Series.of([5], [1e-30]), "max_gradient_norm": 1e30},
        {"max_gradient_norm": 0.0},
        {"learning_rate": Series.of([5], [0.0])},
        {"name": "a $x^2$ [b] \u4e2d\udcff" * 9},
    ],
    ids="-".join,
)
def test_odd_curves_are_drawn_without_a_warning(drawn: Drawn, changes: dict[str, object]) -> None:
    drawn(make(1, **changes))
    drawn(make(1, **changes), make(30))


def test_a_hundred_thousand_values_are_drawn_as_their_outline(drawn: Drawn) -> None:
    loss, *_ = drawn(make(100_000))

    assert len(line(loss, "training")[0]) <= 2402
    assert line(loss, "training")[1].max() == 2.0 + math.exp(-0.1)


@pytest.mark.parametrize(
    ("extension", "start"),
    [
        ("png", b"\x89PNG"),
        ("PDF", b"%PDF"),
        ("svg", b"<?xml"),
        ("jpg", b"\xff\xd8"),
        ("eps", b"%!PS"),
    ],
)
def test_every_format_is_what_it_says(extension: str, start: bytes) -> None:
    assert draw([make()], extension).startswith(start)


@pytest.mark.parametrize("extension", ["xyz", "", "pgf"])
def test_unknown_extension_names_the_known_ones(extension: str) -> None:
    with pytest.raises(ReportError, match=rf"'{extension}'; known: .*pdf, png.*svg"):
        draw([make()], extension)


def test_curve_with_nothing_to_draw_is_named() -> None:
    empty = Series.of([], [])

    with pytest.raises(ReportError, match="run has neither loss nor learning rate nor"):
        draw([make(loss=empty, learning_rate=empty, gradient_norm=empty)], "png")
