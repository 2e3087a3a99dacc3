"""Pictures: trackside's renderers against plain ``subplots/imshow/bar/colorbar/savefig``.

Both draw the same values with the same scale, labels, title and colour bar, into memory, in one
thread. Times are CPU times, which other work on the machine disturbs less than the wall's; rounds
alternate between the two, and ratios are taken within each.

    python benchmarks/rendering.py [--rounds 5]
"""

import argparse
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from figures import QUARTILES, quartiles, ratios
from frame import Benchmark, Findings
from rendering_plain import (
    draw_animation_plainly,
    draw_entropy_plainly,
    draw_gradients_plainly,
    draw_maps_plainly,
)
from tables import Column, Limit, Table

from tracksided.renderers.animation import Animation
from tracksided.renderers.entropy import EntropyByLayer
from tracksided.renderers.gradient_flow import GradientFlow
from tracksided.renderers.head_map import HeadMap
from tracksided.renderers.heatmap import Heatmap
from tracksided.renderers.layer_comparison import LayerComparison
from tracksided.renderers.multi_head import MultiHead
from tracksided.reports import Picture
from tracksided.stages import AttentionMap, RecordedStep, Renderer, StepData

MUST_REACH = 10.0  # images per second against the plain way
NUM_FRAMES = 24
WORDS = ("the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "and", "sleeps")


@dataclass(frozen=True, slots=True)
class Case:
    """One picture, drawn in both ways; each call draws another step."""

    name: str
    ours: Callable[[int], bytes]
    plain: Callable[[int], bytes]


def make_map(heads: int, side: int, layer: int = 0) -> AttentionMap:
    """Make causal softmax rows of random logits."""
    rng = np.random.default_rng(layer)
    shape = (heads, side, side)
    logits = rng.normal(0, 2, shape).astype(np.float32)
    weights = np.tril(np.exp(logits))
    weights /= weights.sum(axis=-1, keepdims=True)
    return AttentionMap(
        stack="decoder",
        type="self_attention",
        layer=layer,
        module=f"transformer.h.{layer}.attn",
        heads=tuple(range(heads)),
        num_heads=heads,
        num_queries=side,
        query_rows=np.arange(side),
        weights=weights,
        max_logit=np.zeros(heads, dtype=np.float32),
        visible=np.tril(np.ones((1, side, side), dtype=np.bool_)),
    )


def make_parameters(count: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    names = (
        "attn.q_proj.weight",
        "attn.out_proj.weight",
        "mlp.fc1.weight",
        "mlp.fc1.bias",
        "ln.weight",
    )
    return [
        {
            "name": f"transformer.h.{index // len(names)}.{names[index % len(names)]}",
            "norm": float(np.exp(rng.normal(-3, 1))),
            "abs_max": float(np.exp(rng.normal(-6, 1))),
            "update_ratio": float(np.exp(rng.normal(-7, 1))),
            "nonfinite": False,
        }
        for index in range(count)
    ]


@dataclass(frozen=True, slots=True)
class Run:
    """A run whose lines and pictures lie in memory."""

    lines: Mapping[int, Mapping[str, Any]]
    contents: Mapping[int, Mapping[str, bytes]]

    @property
    def steps(self) -> Sequence[RecordedStep]:
        return [RecordedStep(step, f"step_{step}") for step in {**self.lines, **self.contents}]

    def line(self, step: RecordedStep) -> Mapping[str, Any]:
        return self.lines[step.step]

    def files(self, step: RecordedStep) -> Sequence[str]:
        return tuple(self.contents[step.step])

    def read(self, step: RecordedStep, file_name: str) -> bytes | None:
        return self.contents[step.step][file_name]


def draw(
    renderer: Renderer,
    maps: Sequence[AttentionMap],
    step: int,
    *,
    parameters: Sequence[Mapping[str, Any]] = (),
    tokens: tuple[str, ...] = (),
) -> Picture:
    """Draw the one picture of a step."""
    data = StepData("bench", step, None, tuple(maps), None, {"parameters": parameters}, tokens)
    (picture,) = renderer.render(data)
    return picture


def of_maps(
    name: str, renderer: Renderer, maps: Sequence[AttentionMap], tokens: tuple[str, ...] = ()
) -> Case:
    panels = {"": maps[0].weights.mean(axis=0)}
    if isinstance(renderer, MultiHead):
        panels = {f"head {head}": weights for head, weights in enumerate(maps[0].weights)}
    if isinstance(renderer, LayerComparison):
        panels = {f"layer {entry.layer}": entry.weights.mean(axis=0) for entry in maps}
    return Case(
        name,
        lambda step: draw(renderer, maps, step, tokens=tokens).png,
        lambda step: draw_maps_plainly(panels, step, tokens),
    )


def of_gradients(count: int) -> Case:
    parameters = make_parameters(count)
    return Case(
        f"gradient flow, {count} parameters",
        lambda step: draw(GradientFlow(), (), step, parameters=parameters).png,
        lambda step: draw_gradients_plainly(parameters, step),
    )


def of_entropy(num_layers: int, num_steps: int) -> Case:
    values = np.random.default_rng(0).random((num_layers, num_steps))
    steps = range(100, 100 * (num_steps + 1), 100)
    lines = {
        step: {
            "attention": {
                "decoder": [
                    {"layer": layer, "type": "self_attention", "normalized_entropy": float(value)}
                    for layer, value in enumerate(column)
                ]
            }
        }
        for step, column in zip(steps, values.T, strict=True)
    }
    run = Run(lines, {})
    return Case(
        f"entropy, {num_layers} layers, {num_steps} steps",
        lambda _: next(iter(EntropyByLayer().render(run))).png,
        lambda _: draw_entropy_plainly(values, steps),
    )


def of_animation(side: int) -> Case:
    """Frames and all: what a run of so many sampled steps costs."""
    attention = make_map(1, side)

    def ours(step: int) -> bytes:
        frames = [draw(HeadMap(), (attention,), step + index) for index in range(NUM_FRAMES)]
        contents = {
            step + index: {frame.file_name: frame.png} for index, frame in enumerate(frames)
        }
        (picture,) = Animation().render(Run({}, contents))
        return picture.png

    return Case(
        f"animation of {NUM_FRAMES} frames, {side}x{side}",
        ours,
        lambda step: draw_animation_plainly(attention.weights[0], step, NUM_FRAMES),
    )


def make_cases() -> tuple[Case, ...]:
    return (
        of_maps("heat map 29x29, with positions", Heatmap(), [make_map(1, 29)]),
        of_maps("heat map 29x29, with tokens", Heatmap(), [make_map(1, 29)], (WORDS * 3)[:29]),
        of_maps("heat map 512x512", Heatmap(), [make_map(1, 512)]),
        of_maps("heat map 4096x4096", Heatmap(), [make_map(1, 4096)]),
        of_maps("grid of 8 heads, 512x512", MultiHead(), [make_map(8, 512)]),
        of_maps(
            "comparison of 12 layers, 4 heads, 128x128",
            LayerComparison(),
            [make_map(4, 128, layer) for layer in range(12)],
        ),
        of_gradients(40),
        of_gradients(2000),
        of_entropy(12, 200),
        of_animation(29),
        of_animation(512),
    )


def seconds(draw: Callable[[int], bytes], step: int) -> float:
    begin = time.process_time()
    draw(step)
    return time.process_time() - begin


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=5)


def measure(arguments: argparse.Namespace) -> Findings:
    rows = [measure_case(case, arguments.rounds) for case in make_cases()]
    columns = (
        Column("picture", "picture"),
        Column("ours_ms", "ours, ms", 1),
        Column("plain_ms", "plain, ms", 0),
        Column("ratio", "plain / ours", 1),
        Column("first_ms", "our first, ms", 1),
        Column("ours_kib", "our file, KiB", 0),
        Column("plain_kib", "plain file, KiB", 0),
    )
    reached = {str(row["picture"]): row["ratio"] for row in rows}
    worst = min(reached, key=lambda name: reached[name].median)
    return Findings(
        {"pictures": Table(columns, rows, QUARTILES)},
        [Limit("pictures a second, times plain", ">=", MUST_REACH, {worst: reached[worst]})],
    )


def measure_case(case: Case, rounds: int) -> dict[str, Any]:
    first = seconds(case.ours, 0)  # builds the canvas
    case.plain(0)
    ours, plain = [], []
    for step in range(1, rounds + 1):
        plain.append(seconds(case.plain, step))
        ours.append(seconds(case.ours, step))
    return {
        "picture": case.name,
        "ours_ms": statistics.median(ours) * 1e3,
        "plain_ms": statistics.median(plain) * 1e3,
        "ratio": quartiles(ratios(plain, ours)),
        "first_ms": first * 1e3,
        "ours_kib": len(case.ours(0)) / 1024,
        "plain_kib": len(case.plain(0)) / 1024,
    }


BENCHMARK = Benchmark(
    file=__file__,
    about=__doc__,
    add_options=add_options,
    measure=measure,
    quick={"rounds": 1},
    packages=("matplotlib", "numpy", "pillow"),
)

if __name__ == "__main__":
    BENCHMARK.main()
