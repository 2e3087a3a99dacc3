"""Two ranks under DDP, attached before or after wrapping; a script, started by the tests.

Usage: ranks_trainer.py OUT ORDER. Each rank writes the norms of its own gradients to
``OUT.<rank>``.
"""

import math
import os
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import trackside

WORLD_SIZE = 2


class _Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mixed: torch.Tensor = self.attention(x, x, x, need_weights=False)[0]
        out: torch.Tensor = self.head(mixed)
        return out


def _train(rank: int, out: str, order: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{out}.store", rank=rank, world_size=WORLD_SIZE
    )
    torch.manual_seed(0)
    inner = _Model()
    before = order == "attach, then wrap"
    optimizer = torch.optim.SGD(inner.parameters(), lr=0.1)
    keywords: Any = {"every": 2, "save_dir": out, "autostart": False, "ring_bytes": 1 << 20}
    if before:
        session = trackside.attach(inner, optimizer, **keywords)
    model = DistributedDataParallel(inner)
    if not before:
        session = trackside.attach(model, optimizer, **keywords)
    torch.manual_seed(rank)
    norms = []
    for _ in range(4):
        x = torch.randn(3, 5, 8)
        own = torch.autograd.grad(inner(x).square().mean(), list(inner.parameters()))
        norms.append(math.sqrt(sum(float(part.square().sum()) for part in own)))
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
    session.close()
    Path(f"{out}.{rank}").write_text(" ".join(map(str, norms)))
    dist.destroy_process_group()


def _attach_alone(rank: int, out: str) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(WORLD_SIZE)}
    model = nn.Linear(2, 2)
    trackside.attach(model, save_dir=out, autostart=False, ring_bytes=4096).close()


if __name__ == "__main__":
    if sys.argv[2] == "before init_process_group":
        mp.spawn(_attach_alone, (sys.argv[1],), nprocs=WORLD_SIZE)
    else:
        mp.spawn(_train, tuple(sys.argv[1:]), nprocs=WORLD_SIZE)
