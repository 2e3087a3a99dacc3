# ruff: noqa: INP001 - a script, not part of a package
"""Makes the pictures of docs/gallery.md: a small translator learns to say sentences backwards.

    python examples/gallery.py                  # into docs/gallery, some seconds on a CPU
    python examples/gallery.py --out DIR --steps 200

It trains under `trackside run`, so that a daemon is there and everything is drawn when it ends,
and keeps one picture of each kind. The first sentence of each batch is always the same: it is the
one that is shown, and its words name the axes.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch import nn

import trackside

SENTENCE = (
    "the",
    "quick",
    "brown",
    "fox",
    "jumps",
    "over",
    "the",
    "lazy",
    "dog",
    "at",
    "my",
    "door",
)
OTHER_WORDS = (
    "a",
    "cat",
    "sleeps",
    "under",
    "old",
    "trees",
    "while",
    "birds",
    "sing",
    "in",
    "snow",
)
WORDS = sorted({*SENTENCE, *OTHER_WORDS})
START = len(WORDS)  # what the decoder begins with, and ends with
LENGTH = len(SENTENCE)
WIDTH = 64
BATCH = 32
STEPS = 240
NUM_FRAMES = 24
DEADLINE_S = 60.0
WORD = {word: index for index, word in enumerate(WORDS)}
DEFAULT_OUT = Path(__file__).parents[1] / "docs" / "gallery"
# What is kept: the name in the gallery, and where the daemon draws it.
PICTURES = {
    "heatmap.png": "step_{last}/decoder_layer1_cross_attn.png",
    "head.png": "step_{last}/decoder_layer1_cross_attn_head0.png",
    "multi_head.png": "step_{last}/decoder_layer1_cross_attn_heads.png",
    "layer_comparison.png": "step_{last}/decoder_cross_layer_comparison.png",
    "gradient_flow.png": "step_{last}/gradient_flow.png",
    "animation.png": "overview/decoder_layer1_cross_attn_head0.png",
    "entropy.png": "overview/entropy.png",
}


class Reverser(nn.Module):
    """An encoder and a decoder of two layers each."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(len(WORDS) + 1, WIDTH)
        self.source_places = nn.Parameter(torch.randn(LENGTH, WIDTH) * 0.5)
        self.target_places = nn.Parameter(torch.randn(LENGTH + 1, WIDTH) * 0.5)
        self.transformer = nn.Transformer(
            WIDTH, 4, 2, 2, dim_feedforward=128, dropout=0.0, batch_first=True
        )
        self.out = nn.Linear(WIDTH, len(WORDS) + 1)

    def forward(self, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return logits [batch, target, words] for indices [batch, source] and [batch, target]."""
        mask = nn.Transformer.generate_square_subsequent_mask(target.shape[1])
        hidden: torch.Tensor = self.transformer(
            self.words(source) + self.source_places,
            self.words(target) + self.target_places,
            tgt_mask=mask,
            tgt_is_causal=True,
        )
        logits: torch.Tensor = self.out(hidden)
        return logits


def train(save_dir: Path, steps: int) -> None:
    """Train with trackside attached, and print the loss now and then."""
    torch.manual_seed(0)
    torch.set_num_threads(1)  # the same pictures on every machine
    model = Reverser()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    session = trackside.attach(
        model,
        optimizer,
        every=max(1, steps // NUM_FRAMES),
        layers=None,
        save_dir=save_dir,
        visualize=[
            *("heatmap", "statistics", "multi_head", "layer_comparison", "gradient_flow"),
            *("animation", "entropy"),
        ],
    )
    shown = torch.tensor([WORD[word] for word in SENTENCE])
    for step in range(1, steps + 1):
        source = torch.randint(len(WORDS), (BATCH, LENGTH))
        source[0] = shown
        backwards, end = source.flip(1), torch.full((BATCH, 1), START)
        begun, answer = torch.cat([end, backwards], dim=1), torch.cat([backwards, end], dim=1)
        is_due = session.is_due
        if is_due:
            session.tokens(SENTENCE)
        logits = model(source, begun)
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), answer.flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), max_norm=1.0)
        optimizer.step()
        if is_due:
            wait_for(save_dir / f"step_{step}")
        if step % 40 == 0:
            print(f"step {step} loss {loss.item():.3f}")  # noqa: T201 - it is a script
    session.close()


def wait_for(folder: Path) -> None:
    """Wait until a step is drawn: a daemon that cannot follow would leave pictures out."""
    deadline = time.monotonic() + DEADLINE_S
    while not folder.exists():
        if time.monotonic() > deadline:
            sys.exit(f"{folder} does not appear; is the daemon alive? trackside status tells")
        time.sleep(0.01)


def main() -> None:
    """Train beside a daemon of our own, then keep the pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--train", type=Path, metavar="DIR", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.train is not None:
        train(arguments.train, arguments.steps)
        return
    with tempfile.TemporaryDirectory() as directory:
        run = Path(directory) / "run"
        script = [sys.executable, __file__, "--train", str(run), "--steps", str(arguments.steps)]
        subprocess.run([sys.executable, "-m", "tracksided", "run", "--", *script], check=True)
        every = max(1, arguments.steps // NUM_FRAMES)
        arguments.out.mkdir(parents=True, exist_ok=True)
        for name, place in PICTURES.items():
            picture = run / place.format(last=arguments.steps // every * every)
            shutil.copyfile(picture, arguments.out / name)
            print(f"{arguments.out / name}: {picture.stat().st_size // 1024} KiB")  # noqa: T201 - it is a script


if __name__ == "__main__":
    main()
