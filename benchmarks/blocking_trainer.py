"""The trainer of `blocking.py`: ``python blocking_trainer.py EVERY SAVE_DIR``; 0 is bare.

Each line on stdin is a number of steps to train; the answer is their milliseconds.
"""

import sys
import time

import torch
from torch import nn
from torch.nn import functional

VOCABULARY, WIDTH, HEADS, LAYERS, LENGTH, BATCH = 128, 128, 4, 4, 64, 8


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)
        self.mlp = nn.Sequential(
            nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH)
        )

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        heads = self.qkv(hidden).unflatten(-1, (3, HEADS, WIDTH // HEADS))
        query, key, value = heads.permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        hidden = hidden + self.out(mixed.transpose(1, 2).flatten(2))
        return hidden + self.mlp(hidden)


def make_model(num_layers: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Embedding(VOCABULARY, WIDTH),
        *(Block() for _ in range(num_layers)),
        nn.Linear(WIDTH, VOCABULARY),
    )


def main(every: int, save_dir: str) -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = make_model(LAYERS)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    if every:
        import trackside  # noqa: PLC0415 - the bare trainer must not know it

        trackside.attach(
            model,
            optimizer,
            every=every,
            save_dir=save_dir,
            autostart=False,
            ring_bytes=8 << 20,
        )
    tokens = torch.randint(VOCABULARY, (BATCH, LENGTH + 1))
    print("ready", flush=True)
    for line in sys.stdin:
        print(*(f"{step(model, optimizer, tokens):.4f}" for _ in range(int(line))), flush=True)


def step(model: nn.Module, optimizer: torch.optim.Optimizer, tokens: torch.Tensor) -> float:
    start = time.perf_counter()
    logits = model(tokens[:, :-1])
    functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()).backward()
    optimizer.step()
    optimizer.zero_grad()
    return (time.perf_counter() - start) * 1e3


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
