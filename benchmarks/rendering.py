"""Heat maps: trackside's renderers against plain ``subplots/imshow/colorbar/savefig``.

Both draw the same maps with the same scale, labels, title and colour bar, into memory. Rounds
alternate between the two, so that a busy machine slows both; the ratio is that of the medians.

    python benchmarks/rendering.py --json rendering.json
"""

import argparse
import io
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl

mpl.use("agg")

import matplotlib.pyplot as plt  # noqa: TID251 - the contestant; after its backend
import numpy as np
from matplotlib.colors import PowerNorm

from tracksided.renderers.heatmap import Heatmap
from tracksided.renderers.multi_head import MultiHead
from tracksided.stages import AttentionMap, Renderer, StepData

MUST_REACH = 10.0  # images per second against the plain way
DEFAULT_ROUNDS = 7


@dataclass(frozen=True, slots=True)
class Case:
    """One size of map; more than one head is drawn as a grid."""

    name: str
    heads: int
    side: int

    @property
    def renderer(self) -> Renderer:
        return Heatmap() if self.heads == 1 else MultiHead()


CASES = (
    Case("29x29", 1, 29),
    Case("512x512", 1, 512),
    Case("4096x4096", 1, 4096),
    Case("grid of 8 x 512x512", 8, 512),
)


def make_map(case: Case) -> AttentionMap:
    """Make causal softmax rows of random logits."""
    rng = np.random.default_rng(0)
    shape = (case.heads, case.side, case.side)
    logits = rng.normal(0, 2, shape).astype(np.float32)
    weights = np.tril(np.exp(logits))
    weights /= weights.sum(axis=-1, keepdims=True)
    return AttentionMap(
        stack="decoder",
        type="self_attention",
        layer=0,
        module="transformer.h.0.attn",
        heads=tuple(range(case.heads)),
        num_heads=case.heads,
        num_queries=case.side,
        query_rows=np.arange(case.side),
        weights=weights,
        max_logit=np.zeros(case.heads, dtype=np.float32),
        visible=np.tril(np.ones((1, case.side, case.side), dtype=np.bool_)),
    )


def draw_plainly(attention: AttentionMap, step: int) -> bytes:
    """Draw as a training script would."""
    columns = max(1, round(len(attention.weights) ** 0.5))
    rows = -(-len(attention.weights) // columns)
    size = (7, 6.5) if rows * columns == 1 else (3.2 * columns, 3 * rows)
    figure, grid = plt.subplots(rows, columns, figsize=size, squeeze=False)
    for head, (axes, weights) in enumerate(zip(grid.flat, attention.weights, strict=False)):
        image = axes.imshow(weights, cmap="viridis", norm=PowerNorm(0.5, 0, 1), aspect="auto")
        axes.set_title(f"head {head}")
        axes.set_xlabel("key position")
        axes.set_ylabel("query position")
    figure.colorbar(image, ax=grid, label="attention weight")
    figure.suptitle(f"decoder layer 0, self attention, step {step}\n{attention.module}")
    file = io.BytesIO()
    figure.savefig(file, format="png")
    plt.close(figure)
    return file.getvalue()


def draw_ours(case: Case, attention: AttentionMap, step: int) -> bytes:
    data = StepData("bench", step, None, (attention,), None, None)
    (picture,) = case.renderer.render(data)
    return picture.png


def seconds(draw: Callable[[], bytes]) -> float:
    begin = time.perf_counter()
    draw()
    return time.perf_counter() - begin


def measure(case: Case, rounds: int) -> Mapping[str, object]:
    attention = make_map(case)
    first = seconds(lambda: draw_ours(case, attention, 0))  # builds the canvas
    draw_plainly(attention, 0)
    ours, plain = [], []
    for step in range(1, rounds + 1):
        plain.append(seconds(lambda: draw_plainly(attention, step)))  # noqa: B023 - called at once
        ours.append(seconds(lambda: draw_ours(case, attention, step)))  # noqa: B023
    ratios = [a / b for a, b in zip(plain, ours, strict=True)]
    return {
        "case": case.name,
        "ours_ms": statistics.median(ours) * 1e3,
        "plain_ms": statistics.median(plain) * 1e3,
        "first_ms": first * 1e3,
        "ratio": statistics.median(plain) / statistics.median(ours),
        "smallest_ratio": min(ratios),
        "ours_bytes": len(draw_ours(case, attention, 0)),
        "plain_bytes": len(draw_plainly(attention, 0)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=DEFAULT_ROUNDS)
    parser.add_argument("--json", type=Path, metavar="PATH")
    arguments = parser.parse_args()
    results = [measure(case, arguments.rounds) for case in CASES]
    heads = ("case", "ours ms", "plain ms", "ratio", "worst round", "first ms", "KiB", "plain KiB")
    print("{:<22}{:>9}{:>10}{:>8}{:>13}{:>10}{:>7}{:>11}".format(*heads))
    for result in results:
        print(
            f"{result['case']:<22}{result['ours_ms']:>9.2f}{result['plain_ms']:>10.1f}"
            f"{result['ratio']:>8.1f}{result['smallest_ratio']:>13.1f}{result['first_ms']:>10.1f}"
            f"{result['ours_bytes'] / 1024:>7.0f}{result['plain_bytes'] / 1024:>11.0f}"
        )
    reached = all(result["ratio"] >= MUST_REACH for result in results)
    print(f"must reach {MUST_REACH:g}x in every case: {'yes' if reached else 'NO'}")
    if arguments.json:
        document = {
            "benchmark": "rendering",
            "machine": {"cores": os.cpu_count(), "machine": platform.machine()},
            "versions": {
                "python": platform.python_version(),
                "matplotlib": mpl.__version__,
                "numpy": np.__version__,
            },
            "must_reach": MUST_REACH,
            "reached": reached,
            "rounds": arguments.rounds,
            "results": results,
        }
        arguments.json.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
