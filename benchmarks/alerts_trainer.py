"""One labelled run of `benchmarks/alerts.py`: a small real training, healthy or with a fault.

python benchmarks/alerts_trainer.py CASE SEED STEPS FAULT_STEP SAVE_DIR
"""

import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

import trackside
from tracksided.demo.text import load_corpus, random_batches

WIDTH, LENGTH, BATCH, HEADS = 32, 32, 8, 2
RING_BYTES = 256 << 20  # for 400 steps of the largest model, should the daemon be slow


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.mlp_norm = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 64), nn.GELU(), nn.Linear(64, WIDTH))
        self.gain = 1.0
        """0 kills the gradient of everything in the block."""

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(x)).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.gain * self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.gain * self.mlp(self.mlp_norm(x))


class GPT(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.position = nn.Embedding(256, WIDTH), nn.Embedding(LENGTH, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(3))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 256)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens) + self.position(torch.arange(tokens.shape[1]))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def mlp(depth: int, activation: type[nn.Module]) -> nn.Sequential:
    layers = [nn.Linear(16, 32)]
    for _ in range(depth):
        layers += [activation(), nn.Linear(32, 32)]
    return nn.Sequential(*layers, activation(), nn.Linear(32, 1))


class LSTM(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(256, WIDTH), nn.Linear(WIDTH, 256)
        self.lstm = nn.LSTM(WIDTH, WIDTH, batch_first=True)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.lstm(self.embed(tokens))[0])


def text(seed: int, rank: int) -> Iterator[tuple[Tensor, Tensor]]:
    corpus = load_corpus(max_bytes=400_000).train
    for batch in random_batches(corpus, batch_size=BATCH, length=LENGTH + 1, seed=(seed, rank)):
        tokens = torch.from_numpy(batch)
        yield tokens[:, :-1], tokens[:, 1:]


def regression(seed: int, rank: int) -> Iterator[tuple[Tensor, Tensor]]:
    random = torch.Generator().manual_seed(1000 * seed + rank)
    teacher = mlp(1, nn.Tanh)
    while True:
        x = torch.randn(32, 16, generator=random)
        with torch.no_grad():
            y = 3 * teacher(x) + 0.5 * torch.randn(32, 1, generator=random)
        yield x, y


def text_loss(output: Tensor, target: Tensor) -> Tensor:
    return functional.cross_entropy(output.flatten(0, 1), target.flatten())


@dataclass
class Training:
    """Everything that a fault may lay hands on."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    rank: int
    inner: nn.Module
    max_norm: float | None = 1.0
    hoard: list[Tensor] = field(default_factory=list)
    loss_scale: float = 1.0
    batch: tuple[Tensor, Tensor] = (torch.empty(0), torch.empty(0))


Fault = Callable[[Training, int, int], None]


def set_lr(training: Training, lr: float) -> None:
    for group in training.optimizer.param_groups:
        group["lr"] = lr


def explode(training: Training, step: int, since: int) -> None:
    if step == since:
        set_lr(training, 300 * training.optimizer.param_groups[0]["lr"])


def poison(training: Training, step: int, since: int) -> None:
    if step == since:
        training.batch = (torch.full_like(training.batch[0], math.nan), training.batch[1])


def kill_layer(training: Training, step: int, since: int) -> None:
    if step == since:
        training.inner.blocks[1].gain = 0.0


def freeze_layer(training: Training, step: int, since: int) -> None:
    if step == since:
        training.inner.blocks[1].requires_grad_(requires_grad=False)


def leak(training: Training, step: int, since: int) -> None:
    time.sleep(0.02)
    if step >= since:
        training.hoard.append(torch.ones(1 << 18))  # 1 MiB


def straggle(training: Training, step: int, since: int) -> None:
    if step >= since and training.rank == 1:
        time.sleep(0.15)


def desynchronise(training: Training, step: int, since: int) -> None:
    if step == since and training.rank == 1:
        with torch.no_grad():
            next(iter(training.inner.parameters())).add_(1e-3)


def hang(training: Training, step: int, since: int) -> None:
    del training
    if step == since:
        time.sleep(20)


def sharpen(training: Training, step: int, since: int) -> None:
    if step >= since:
        with torch.no_grad():
            training.inner.blocks[1].qkv.weight[: 2 * WIDTH].mul_(1.03)


def swing(training: Training, step: int, since: int) -> None:
    training.loss_scale = 30.0 if step >= since and step % 2 else 1.0


def spoil_batch(training: Training, step: int, since: int) -> None:
    if step == since:
        wrong = torch.randint(128, 256, training.batch[1].shape)  # bytes that text does not have
        training.batch = (training.batch[0], wrong)


def nothing(training: Training, step: int, since: int) -> None:
    del training, step, since


@dataclass(frozen=True)
class Case:
    """Model, data and learning rate; ``fault`` is asked in front of every step."""

    kind: str
    lr: float
    fault: Fault = nothing
    max_norm: float | None = 1.0
    momentum: bool = False


CASES = {
    "gpt-lr3e-4": Case("gpt", 3e-4),
    "gpt-lr1e-3": Case("gpt", 1e-3),
    "gpt-lr3e-3-unclipped": Case("gpt", 3e-3, max_norm=None),
    "lstm-lr1e-3": Case("lstm", 1e-3),
    "lstm-lr5e-3-unclipped": Case("lstm", 5e-3, max_norm=None),
    "mlp-sgd-lr1e-2": Case("mlp", 1e-2, momentum=True, max_norm=None),
    "mlp-adam-lr1e-3": Case("mlp", 1e-3),
    "gpt-two-ranks": Case("gpt", 1e-3),
    "exploding": Case("mlp", 1e-2, explode, max_norm=None, momentum=True),
    "exploding-gpt": Case("gpt", 1e-3, explode, max_norm=None),
    "vanishing": Case("sigmoid", 1e-3),
    "nan-batch": Case("mlp", 1e-3, poison),
    "dead-layer": Case("gpt", 1e-3, kill_layer),
    "frozen-layer": Case("gpt", 1e-3, freeze_layer),
    "entropy-collapse": Case("gpt", 6e-2, max_norm=None),
    "growing-logits": Case("gpt", 1e-3, sharpen),
    "learning-rate-0": Case("gpt", 0.0),
    "swings": Case("gpt", 1e-3, swing),
    "bad-batch": Case("gpt", 1e-3, spoil_batch),
    "always-clipped": Case("gpt", 1e-3, max_norm=0.02),
    "leak": Case("mlp", 1e-3, leak),
    "straggler": Case("gpt", 1e-3, straggle),
    "desynchronised": Case("gpt", 1e-3, desynchronise),
    "stalled-loader": Case("mlp", 1e-3, hang),
}
MODELS: dict[str, Callable[[], nn.Module]] = {
    "gpt": GPT,
    "lstm": LSTM,
    "mlp": lambda: mlp(2, nn.Tanh),
    "sigmoid": lambda: mlp(12, nn.Sigmoid),
}


def train(name: str, seed: int, steps: int, since: int, save_dir: Path) -> Iterator[int]:
    """Train; yield after every step, the fault before step ``since`` included."""
    case = CASES[name]
    torch.manual_seed(seed)
    rank = int(os.environ.get("RANK", "0"))
    is_text = case.kind in {"gpt", "lstm"}
    inner = MODELS[case.kind]()
    batches = (text if is_text else regression)(seed, rank)
    model = DistributedDataParallel(inner) if "RANK" in os.environ else inner
    optimizer: torch.optim.Optimizer
    if case.momentum:
        optimizer = torch.optim.SGD(model.parameters(), lr=case.lr, momentum=0.9)
    else:
        optimizer = torch.optim.AdamW(model.parameters(), lr=case.lr)
    training = Training(model, optimizer, rank, inner, case.max_norm)
    loss_of = text_loss if is_text else functional.mse_loss
    settings = {"layers": None, "visualize": (), "ring_bytes": RING_BYTES}
    with trackside.attach(model, optimizer, every=1, save_dir=save_dir, **settings):
        for step in range(1, steps + 1):
            training.batch = next(batches)
            case.fault(training, step, since)
            train_step(training, loss_of)
            yield step


def main(arguments: list[str]) -> None:
    torch.set_num_threads(1)
    if "RANK" in os.environ:
        dist.init_process_group("gloo")
    seed, steps, since = map(int, arguments[1:4])
    for _ in train(arguments[0], seed, steps, since, Path(arguments[4])):
        pass


def train_step(training: Training, loss_of: Callable[[Tensor, Tensor], Tensor]) -> None:
    data, target = training.batch
    training.optimizer.zero_grad()
    loss = training.loss_scale * loss_of(training.model(data), target)
    loss.backward()
    if training.max_norm is not None:
        nn.utils.clip_grad_norm_(training.model.parameters(), training.max_norm)
    training.optimizer.step()


if __name__ == "__main__":
    main(sys.argv[1:])
