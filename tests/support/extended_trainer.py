"""Trains with everything that docs/extending.md adds: a kernel of its own, under Ignite.

``python extended_trainer.py SAVE_DIR``: its last steps are slow. Checkpoints are NumPy's. Of the
last step it writes down, by means of its own, what the first layer attends to and the gradients.
"""

import sys
import time
from pathlib import Path

import numpy as np
import torch
from ignite.engine import Engine
from real_trainer import BATCH, LENGTH, VOCABULARY, WIDTH, Model
from torch import nn
from torch.nn import functional
from trackside.integrations.ignite import TracksideHandler

HEADS = 4
SCALE = 0.5
STEPS, SLOW_FROM = 40, 31
SLOW_S = 0.5  # what a step takes then: some hundred times what it took


@torch.library.custom_op("zoo::packed_attention", mutates_args=())
def packed_attention(
    qkv: torch.Tensor,
    scale: float,
    is_causal: bool,  # noqa: FBT001 - an operator's schema
) -> torch.Tensor:
    """Stand in for a fused kernel: [batch, rows, 3, heads, size] to [batch, rows, heads, size]."""
    query, key, value = qkv.movedim(2, 0).transpose(2, 3).unbind(0)
    mixed = functional.scaled_dot_product_attention(
        query, key, value, scale=scale, is_causal=is_causal
    )
    return mixed.transpose(1, 2).contiguous()


def _keep(ctx: object, inputs: tuple[torch.Tensor, float, bool], output: torch.Tensor) -> None:
    del output
    ctx.save_for_backward(inputs[0])
    ctx.rest = inputs[1:]


def _backward(ctx: object, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
    (qkv,) = ctx.saved_tensors
    with torch.enable_grad():
        again = qkv.detach().requires_grad_()
        query, key, value = again.movedim(2, 0).transpose(2, 3).unbind(0)
        scale, is_causal = ctx.rest
        mixed = functional.scaled_dot_product_attention(
            query, key, value, scale=scale, is_causal=is_causal
        )
        (found,) = torch.autograd.grad(mixed.transpose(1, 2), again, gradient)
    return found, None, None


packed_attention.register_autograd(_backward, setup_context=_keep)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        qkv = self.qkv(hidden).unflatten(-1, (3, HEADS, WIDTH // HEADS))
        return hidden + self.out(packed_attention(qkv, SCALE, True).flatten(2))  # noqa: FBT003 - op


def main(save_dir: Path) -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = Model()
    model.blocks = nn.Sequential(Block(), Block())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    def update(engine: Engine, tokens: torch.Tensor) -> float:
        optimizer.zero_grad()
        logits = model(tokens[:, :-1])
        loss = functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        loss.backward()
        if engine.state.iteration == STEPS:
            write_truth(model, tokens, save_dir / "truth.npz")
        if engine.state.iteration >= SLOW_FROM:
            time.sleep(SLOW_S)
        optimizer.step()
        if engine.state.iteration % 10 == 0:
            save(model, engine.state.iteration, save_dir / "checkpoints")
        return loss.item()

    trainer = Engine(update)
    handler = TracksideHandler(
        every=1,
        layers=None,
        save_dir=save_dir / "run",
        save_raw=True,
        visualize=("statistics", "received", "gradient_share"),
    )
    handler.attach(trainer, model, optimizer)
    tokens = [torch.randint(VOCABULARY, (BATCH, LENGTH + 1)) for _ in range(STEPS // 2)]
    trainer.run(tokens, max_epochs=2)


def write_truth(model: Model, tokens: torch.Tensor, path: Path) -> None:
    """Write attention of the first sample in the first layer, in float64, and the gradients."""
    with torch.no_grad():
        qkv = model.blocks[0].qkv(model.embedding(tokens[:, :-1]))[0].double()
    query, key, _ = qkv.unflatten(-1, (3, HEADS, WIDTH // HEADS)).unbind(1)
    logits = torch.einsum("qhd,khd->hqk", query, key) * SCALE
    hidden = torch.ones(LENGTH, LENGTH, dtype=torch.bool).triu(1)
    weights = logits.masked_fill(hidden, -torch.inf).softmax(-1)
    gradients = {name: parameter.grad.numpy() for name, parameter in model.named_parameters()}
    np.savez(path, attention=weights.numpy(), **gradients)


def save(model: nn.Module, step: int, directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    arrays = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    arrays["embedding.weight"] = np.asfortranarray(arrays["embedding.weight"])
    np.savez(directory / f"model_{step}.npz", step=np.int64(step), **arrays)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
