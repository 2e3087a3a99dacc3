"""Sweeps of the benchmark of growth, and their picture."""

import io
from dataclasses import asdict

import growth
import growth_plot
import numpy as np
import pytest
from figures import Spread
from matplotlib.figure import Figure
from PIL import Image


def spread(median: float) -> Spread:
    return Spread(median, 0.9 * median, 1.1 * median)


def table(name: str, base: int) -> growth.Table:
    costs = {
        value: {"trainer_ms": spread(2.0 * value), "daemon_ms": spread(30.0)}
        for value in growth.WORK_SWEEPS[name]
    }
    return growth.with_ratios(name, costs, base, growth.WORK_COLUMNS, "all")


def test_costs_are_compared_with_those_of_the_base() -> None:
    rows = table("layers", 4).rows

    assert [row["layers"] for row in rows] == [1, 2, 4, 8, 16]
    assert [row["trainer_ms_ratio"] for row in rows] == [0.25, 0.5, 1.0, 2.0, 4.0]
    assert [row["daemon_ms_ratio"] for row in rows] == [1.0] * 5


@pytest.mark.parametrize(
    ("values", "base", "count", "chosen"),
    [
        ((1, 2, 4, 8, 16), 4, 6, [1, 2, 4, 8, 16]),
        ((1, 2, 4, 8, 16), 4, 3, [2, 4, 8]),
        ((2, 5, 10, 20), 5, 2, [5, 10]),
        ((1, 2, 4, 8), 1, 1, [1]),
    ],
)
def test_few_points_lie_around_the_base(
    values: tuple[int, ...], base: int, count: int, chosen: list[int]
) -> None:
    assert growth.nearest(values, base, count) == chosen


def test_every_sweep_holds_its_base() -> None:
    for name, values in (growth.WORK_SWEEPS | growth.CHECKPOINT_SWEEPS).items():
        of = growth.Work() if name in growth.WORK_SWEEPS else growth.Checkpoints()
        assert getattr(of, name) in values


def test_proportion_goes_through_the_base_also_where_a_cost_is_the_same_everywhere() -> None:
    axes = Figure().add_subplot()

    growth_plot.draw_sweep(axes, "layers", asdict(table("layers", 4)))

    (line,) = (line for line in axes.lines if line.get_label() == "in proportion")
    assert list(line.get_xdata()) == [1, 2, 4, 8, 16]
    assert list(line.get_ydata()) == [0.25, 0.5, 1.0, 2.0, 4.0]


def test_the_picture_has_a_line_in_each_sweeps_colours() -> None:
    png = growth_plot.draw({"tables": {"layers": asdict(table("layers", 4))}})

    image = np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).reshape(-1, 3)
    for key in ("trainer_ms", "daemon_ms"):
        colour = growth_plot.SERIES[key][1].removeprefix("#")
        assert (image == list(bytes.fromhex(colour))).all(axis=1).sum() > 50
