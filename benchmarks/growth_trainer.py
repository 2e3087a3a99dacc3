"""A trainer of `growth.py`: ``python growth_trainer.py LAYERS LENGTH RUN SAVE_DIR``.

Each line on stdin is a number of groups of four steps, the last of which is sampled; the answer is
what each sample added, in milliseconds of the thread's CPU time. Its rank comes as torchrun's does.
"""

import sys
import time

import torch
from blocking_trainer import VOCABULARY, make_model, step
from torch import nn

import trackside

PERIOD = 4  # steps: two plain ones, the one that arms, the sampled one


def main(num_layers: int, length: int, run: str, save_dir: str) -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = make_model(num_layers)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    tokens = torch.randint(VOCABULARY, (1, length + 1))
    settings = {"layers": None, "every": PERIOD, "autostart": False}
    with trackside.attach(model, optimizer, run=run, save_dir=save_dir, **settings):
        print("ready", flush=True)
        for line in sys.stdin:
            groups = [group(model, optimizer, tokens) for _ in range(int(line))]
            print(*(f"{added:.4f}" for added in groups), flush=True)


def group(model: nn.Module, optimizer: torch.optim.Optimizer, tokens: torch.Tensor) -> float:
    """Take the steps of a group; return what two of them cost above the two others."""
    times = []
    for _ in range(PERIOD):
        start = time.thread_time()
        step(model, optimizer, tokens)
        times.append((time.thread_time() - start) * 1e3)
    return sum(times[2:]) - sum(times[:2])


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4])
