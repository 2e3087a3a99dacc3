"""The training script of the demo: plain torch with DDP, `attach`, and what is known of the text.

    torchrun --nproc-per-node 2 -m tracksided.demo.train --steps 600 --out trackside_demo

Checkpoints go to ``checkpoints/`` under ``--out``; the daemon writes to ``run/``.
"""

import argparse
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import trackside
from tracksided.demo.model import CONTEXT, GPT, next_byte_loss
from tracksided.demo.text import load_corpus, random_batches

BATCH_SIZE = 8  # per rank
PEAK_LR = 3e-3
WARMUP_STEPS = 30
MAX_NORM = 1.0
SAMPLED_STEPS = 10
SAY_EVERY = 10  # steps
# Closer together than that, and their average has less noise to remove; further apart, and the
# oldest of the five that are averaged is far behind.
NUM_CHECKPOINTS = 25
PICTURES = ("heatmap", "statistics", "multi_head", "layer_comparison", "gradient_flow")


def train(steps: int, out: Path, seed: int) -> None:
    """Train this rank's copy of the model; rank 0 prints progress and saves checkpoints.

    Args:
        steps: of the optimizer.
        out: gets ``run/`` and ``checkpoints/``.
        seed: of weights and batches.
    """
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    dist.init_process_group("gloo")
    rank = dist.get_rank()

    model = DistributedDataParallel(GPT())
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_LR, betas=(0.9, 0.95))
    # The learning rate stays high after warm-up: averaging then does what a decay would do.
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / WARMUP_STEPS)
    )
    trackside.attach(
        model,
        optimizer,
        every=max(1, steps // SAMPLED_STEPS),
        save_dir=out / "run",
        checkpoints=out / "checkpoints",
        layers=None,
        visualize=PICTURES,
        config={"batch_size": BATCH_SIZE, "context_length": CONTEXT, "learning_rate": PEAK_LR},
    )
    corpus = load_corpus()
    trackside.log_dataset(
        source="Python's standard library",
        bytes=len(corpus.train),
        texts=[path.read_text(encoding="utf-8", errors="replace") for path in corpus.train_files],
        terms=("import", "class", "yield", "async"),
    )

    save_every = max(1, steps // NUM_CHECKPOINTS)
    batches = random_batches(
        corpus.train, batch_size=BATCH_SIZE, length=CONTEXT + 1, seed=(seed, rank)
    )
    for step, batch in zip(range(1, steps + 1), batches, strict=False):
        loss = train_step(model, optimizer, torch.from_numpy(batch))
        schedule.step()
        if rank == 0 and step % save_every == 0:
            save(model.module, out / "checkpoints" / f"step_{step:06d}.pt")
        if rank == 0 and (step % SAY_EVERY == 0 or step in {1, steps}):
            print(f"step {step}/{steps} loss {loss.item():.4f}", flush=True)  # noqa: T201 - its log
    dist.destroy_process_group()


def train_step(model: nn.Module, optimizer: torch.optim.Optimizer, batch: Tensor) -> Tensor:
    """Make one optimizer step on tokens [batch, context + 1]; return the loss."""
    optimizer.zero_grad(set_to_none=True)
    loss = next_byte_loss(model(batch[:, :-1]), batch[:, 1:])
    loss.backward()  # type: ignore[no-untyped-call] # torch has no types for it
    nn.utils.clip_grad_norm_(model.parameters(), MAX_NORM)
    optimizer.step()
    return loss.detach()


def save(model: nn.Module, path: Path) -> None:
    """Write a checkpoint that appears whole: temporary name, then rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".saving")
    torch.save(model.state_dict(), temporary)
    temporary.replace(path)


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    train(options.steps, options.out.absolute(), options.seed)


if __name__ == "__main__":
    main()
