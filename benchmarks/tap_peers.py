"""What `tap.py` trains, and the monitors that watch it: ours, two others, and none.

Each monitor is a context manager around a training; it yields what the loop calls after a step.
All of them sample the steps whose number divides by `PERIOD`.
"""

import importlib.util
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import matplotlib as mpl

mpl.use("agg")

import matplotlib.pyplot as plt  # noqa: TID251 - the contestant; after its backend
import torch
from torch import nn
from torch.nn import functional
from torch.utils.tensorboard import SummaryWriter

import trackside
from trackside.wire import segment
from trackside.wire.records import RecordKind, Step, decode
from trackside.wire.ring import RingReader

PERIOD = 4  # steps: two that pay for the sample (arming, sampling) and two that do not
VOCABULARY, WIDTH, HEADS, LAYERS, LENGTH, BATCH = 256, 384, 6, 6, 128, 2
RECORD_BYTES = 4 << 20  # more than one sample takes; the ring must hold all, as nobody reads it

AfterStep = Callable[[int, torch.Tensor, float], None]
"""Gets the step, its tokens and its loss."""

Monitor = Callable[[nn.Module, torch.optim.Optimizer, Path, int], AbstractContextManager[AfterStep]]
"""Gets a place for its files and the number of steps."""


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(2))
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)
        self.mlp = nn.Sequential(
            nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH)
        )

    def forward(self, hidden: torch.Tensor, maps: list[torch.Tensor] | None = None) -> torch.Tensor:
        """Append attention, [batch, heads, queries, keys], to ``maps`` where it is given."""
        heads = self.qkv(self.norms[0](hidden)).unflatten(-1, (3, HEADS, WIDTH // HEADS))
        query, key, value = heads.permute(2, 0, 3, 1, 4)
        if maps is not None:
            logits = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
            future = torch.ones(logits.shape[-2:], dtype=torch.bool).triu(1)
            maps.append(logits.masked_fill(future, float("-inf")).softmax(-1))
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        hidden = hidden + self.out(mixed.transpose(1, 2).flatten(2))
        return hidden + self.mlp(self.norms[1](hidden))


class Gpt(nn.Module):
    """About 10 million parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, WIDTH)
        self.places = nn.Embedding(LENGTH, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.head = nn.Linear(WIDTH, VOCABULARY)

    def forward(self, tokens: torch.Tensor, maps: list[torch.Tensor] | None = None) -> torch.Tensor:
        hidden = self.tokens(tokens) + self.places(torch.arange(tokens.shape[1]))
        for block in self.blocks:
            hidden = block(hidden, maps)
        return self.head(hidden)


@contextmanager
def nothing(
    model: nn.Module, optimizer: torch.optim.Optimizer, directory: Path, steps: int
) -> Iterator[AfterStep]:
    """Watch nothing: the null control."""
    del model, optimizer, directory, steps
    yield lambda step, tokens, loss: None  # noqa: ARG005 - the protocol's names


@contextmanager
def tap(
    model: nn.Module, optimizer: torch.optim.Optimizer, directory: Path, steps: int
) -> Iterator[AfterStep]:
    """Attach trackside for all layers and heads, without a daemon."""
    session = trackside.attach(
        model,
        optimizer,
        every=PERIOD,
        layers=None,
        save_dir=directory / "trackside",
        ring_bytes=steps // PERIOD * RECORD_BYTES,
        autostart=False,
    )
    yield lambda step, tokens, loss: session.log(loss=loss)  # noqa: ARG005 - the protocol's names
    session.close()
    (path,) = segment.scan(segment.node_directory(os.environ))
    count = count_whole_records(path)
    assert count == steps // PERIOD, f"{count} whole records of {steps // PERIOD}"  # noqa: S101 - a drop would look fast
    segment.remove(path)


def count_whole_records(path: Path) -> int:
    """Count the step records that hold gradients and all layers."""
    reader = RingReader.open(path)
    count = 0
    while (record := reader.poll()) is not None:
        if record.kind == RecordKind.STEP:
            step = decode(Step, record.metadata)
            count += step.gradients is not None and len(step.attention) == LAYERS
        reader.commit(record.end)
    reader.close()
    return count


def has_wandb() -> bool:
    return importlib.util.find_spec("wandb") is not None


@contextmanager
def wandb_watch(
    model: nn.Module, optimizer: torch.optim.Optimizer, directory: Path, steps: int
) -> Iterator[AfterStep]:
    """Watch with ``wandb.watch(log="all")``, offline."""
    del optimizer, steps
    import wandb  # noqa: PLC0415 - not a dependency; only where it is installed

    settings = wandb.Settings(console="off", silent=True, x_disable_stats=True)
    run = wandb.init(mode="offline", dir=directory, project="tap", settings=settings)
    run.watch(model, log="all", log_freq=PERIOD)

    def after_step(step: int, tokens: torch.Tensor, loss: float) -> None:
        del tokens
        if step % PERIOD == 0:  # the histograms of `watch` wait for it
            run.log({"loss": loss})

    yield after_step
    histograms = [key for key in run.summary.keys() if key.startswith("gradients/")]  # noqa: SIM118 - not a dict
    assert len(histograms) == len(list(model.parameters()))  # noqa: S101 - or it measured nothing
    run.unwatch(model)
    run.finish()


@contextmanager
def in_process(
    model: nn.Module, optimizer: torch.optim.Optimizer, directory: Path, steps: int
) -> Iterator[AfterStep]:
    """Write histograms and pictures from the training loop, as guides show it.

    Attention comes from a second forward; a picture shows a layer, averaged over the heads.
    """
    del optimizer, steps
    directory = directory / "in_process"
    with SummaryWriter(str(directory)) as writer:

        def after_step(step: int, tokens: torch.Tensor, loss: float) -> None:
            if step % PERIOD:
                return
            writer.add_scalar("loss", loss, step)
            for name, parameter in model.named_parameters():
                writer.add_histogram(f"weights/{name}", parameter, step)
                writer.add_histogram(f"gradients/{name}", parameter.grad, step)
            draw_attention(model, tokens, directory / f"step_{step}")

        yield after_step
    assert len(list(directory.glob("step_*/*.png"))) >= LAYERS  # noqa: S101 - or it measured nothing


@torch.no_grad()
def draw_attention(model: nn.Module, tokens: torch.Tensor, directory: Path) -> None:
    maps: list[torch.Tensor] = []
    model(tokens, maps)
    directory.mkdir()
    for layer, weights in enumerate(maps):
        figure, axes = plt.subplots(figsize=(8, 6))
        image = axes.imshow(weights[0].mean(0).numpy(), cmap="viridis", aspect="auto")
        axes.set_title(f"layer {layer}")
        axes.set_xlabel("key position")
        axes.set_ylabel("query position")
        figure.colorbar(image)
        figure.savefig(directory / f"layer{layer}.png")
        plt.close(figure)
