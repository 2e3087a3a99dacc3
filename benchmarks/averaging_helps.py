"""Does averaging checkpoints help? A small language model at a constant learning rate.

    python benchmarks/averaging_helps.py [--seeds 3] [--steps 400] [--plot FILE]

Trains the demo's GPT on the demo's text once per seed, saves checkpoints, lets the real averaging
make one model of them by each method, and measures all on text that neither training nor the
choice of the best has seen. The table shows means over seeds, and how the difference to the last
checkpoint of the same seed is spread.
"""

import argparse
import json
import statistics
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from figures import Figure
from frame import Benchmark, Findings
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Picture
from numpy.typing import NDArray
from tables import Column, Table

from tracksided.checkpoints.job import AverageRequest, run_average
from tracksided.checkpoints.policy import BestBy
from tracksided.demo.evaluate import held_out_loss
from tracksided.demo.model import CONTEXT, GPT, next_byte_loss
from tracksided.demo.text import even_batches, load_corpus, random_batches

LEARNING_RATE = 3e-3
WARMUP_STEPS = 30
BATCH_SIZE = 8
SAVE_EVERY = 10
NUM_EVALUATED = 4  # batches of 32 windows: 16,384 bytes are predicted
EVALUATED_SIZE = 32
BEST = BestBy(metric="val_loss", mode="min")
LAST = "last"

Batches = Sequence[NDArray[np.int64]]
Losses = dict[str, list[float]]


def methods(directory: Path) -> dict[str, AverageRequest]:
    """Return what is compared, by the name in the table."""
    base = AverageRequest(directory=directory, patterns=("step_*.pt",), minimum=1)
    rows = {
        LAST: replace(base, count=1),
        "best": replace(base, count=1, best=BEST),
        "best 5": replace(base, count=5, best=BEST),
    }
    rows |= {f"uniform {count}": replace(base, count=count) for count in (3, 5, 10, 20)}
    rows |= {
        f"ema {decay} of 20": replace(base, count=20, method="ema", decay=decay)
        for decay in (0.7, 0.9)
    }
    rows |= {
        f"{method} {count}": replace(base, count=count, method=method)
        for count in (10, 20)
        for method in ("wsm-linear", "wsm-cosine", "wsm-1-sqrt")
    }
    return rows


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--plot", type=Path, help="PNG to write")


def measure(arguments: argparse.Namespace) -> Findings:
    losses: Losses = {}
    for seed in range(arguments.seeds):
        with tempfile.TemporaryDirectory(prefix="averaging-helps-") as place:
            for name, loss in run_seed(Path(place), seed, arguments.steps).items():
                losses.setdefault(name, []).append(loss)
    if arguments.plot:
        plot(losses, arguments.plot)
    columns = (
        Column("method", "method"),
        Column("loss", "loss, nats per byte", 4),
        Column("difference", "to the last checkpoint", 4),
        Column("deviation", "its standard deviation over seeds", 4),
    )
    return Findings({"methods": Table(columns, summary(losses))})


def run_seed(directory: Path, seed: int, steps: int) -> dict[str, float]:
    """Train once; return the held-out loss of each method in nats per byte."""
    corpus = load_corpus()
    half = len(corpus.held_out) // 2
    validation, test = evaluated(corpus.held_out[:half]), evaluated(corpus.held_out[half:])
    train(directory, corpus.train, seed, steps)
    for path in directory.glob("step_*.pt"):
        metrics = {BEST.metric: held_out_loss(path, validation)}
        path.with_suffix(".json").write_text(json.dumps(metrics), encoding="utf-8")
    losses: dict[str, float] = {}
    for name, request in methods(directory).items():
        run_average(request)
        losses[name] = held_out_loss(directory / request.output_name, test)
    return losses


def evaluated(text: NDArray[np.uint8]) -> Batches:
    return list(
        even_batches(text, num_batches=NUM_EVALUATED, batch_size=EVALUATED_SIZE, length=CONTEXT + 1)
    )


def train(directory: Path, text: NDArray[np.uint8], seed: int, steps: int) -> None:
    torch.manual_seed(seed)
    model = GPT()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / WARMUP_STEPS)
    )
    batches: Iterable[NDArray[np.int64]] = random_batches(
        text, batch_size=BATCH_SIZE, length=CONTEXT + 1, seed=(seed,)
    )
    for step, batch in zip(range(1, steps + 1), batches, strict=False):
        tokens = torch.from_numpy(batch)
        optimizer.zero_grad(set_to_none=True)
        next_byte_loss(model(tokens[:, :-1]), tokens[:, 1:]).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % SAVE_EVERY == 0:
            torch.save(model.state_dict(), directory / f"step_{step:06d}.pt")


def summary(losses: Mapping[str, Sequence[float]]) -> list[dict[str, Figure]]:
    rows: list[dict[str, Figure]] = []
    for name, values in losses.items():
        differences = [value - last for value, last in zip(values, losses[LAST], strict=True)]
        rows.append(
            {
                "method": name,
                "loss": statistics.mean(values),
                "difference": statistics.mean(differences),
                "deviation": statistics.stdev(differences) if len(differences) > 1 else None,
            }
        )
    return rows


def plot(losses: Mapping[str, Sequence[float]], path: Path) -> None:
    """Draw each seed's difference to its last checkpoint, and the mean, per method."""
    names = [name for name in losses if name != LAST]
    figure = Picture(figsize=(7, 4.2), layout="constrained")
    axes = figure.add_subplot()
    for place, name in enumerate(names):
        differences = np.subtract(losses[name], losses[LAST])
        axes.plot(differences, [place] * len(differences), "o", color="tab:blue", alpha=0.45)
        axes.plot(differences.mean(), place, "|", color="black", markersize=16, markeredgewidth=2)
    axes.axvline(0, color="tab:red", linewidth=1)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.3)
    axes.set_xlabel(
        "held-out loss minus that of the last checkpoint, nats per byte (lower is better)"
    )
    axes.set_title(f"dots: {len(losses[LAST])} seeds, bars: means; left is better", fontsize=10)
    FigureCanvasAgg(figure).print_png(path)


BENCHMARK = Benchmark(
    file=__file__,
    about=__doc__,
    add_options=add_options,
    measure=measure,
    quick={"seeds": 1, "steps": 200},
    packages=("torch", "numpy"),
)

if __name__ == "__main__":
    BENCHMARK.main()
