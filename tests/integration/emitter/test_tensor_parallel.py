"""Two ranks that hold a model in parts: nothing of ours makes one wait for the other."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.integration

RANK = """
import os, sys
from datetime import timedelta
from pathlib import Path
import torch, trackside
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate
from torch.distributed.tensor.parallel import (
    ColwiseParallel, RowwiseParallel, parallelize_module,
)
from torch.nn import functional

rank, out = int(sys.argv[1]), Path(sys.argv[2])
torch.set_num_threads(1)
dist.init_process_group(
    "gloo", init_method=f"file://{out}/rendezvous", rank=rank, world_size=2,
    timeout=timedelta(seconds=60),
)
mesh = init_device_mesh("cpu", (2,))

class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(8, 8) for _ in range(4))
        self.norm = nn.LayerNorm(8)

    def forward(self, x):
        parts = (m(x).unflatten(-1, (-1, 2)).transpose(1, 2) for m in (self.q, self.k, self.v))
        mixed = functional.scaled_dot_product_attention(*parts)
        return self.norm(x + self.out(mixed.transpose(1, 2).flatten(2)))

def train(is_watched):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(10, 8), Block(), nn.Linear(8, 1))
    plan = {f"1.{name}": ColwiseParallel() for name in "qkv"} | {"1.out": RowwiseParallel()}
    # Each rank has all of its gradient, and half of its rows.
    plan["0"] = RowwiseParallel(input_layouts=Replicate())
    parallelize_module(model, mesh, plan)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    os.environ["TRACKSIDE"] = str(int(is_watched))
    session = trackside.attach(
        model, optimizer, every=2, save_dir=out, run="parts", autostart=False, ring_bytes=1 << 20
    )
    for step in range(4):
        loss = model(torch.randint(10, (3, 5))).square().mean()
        optimizer.zero_grad()
        loss.backward()
        rows = model[0].weight.grad.full_tensor()[5 * rank:][:5]
        print(loss.item().hex(), rows.double().norm().item().hex())
        optimizer.step()
    session.close()
    print([p.full_tensor().tolist() for p in model.parameters() if hasattr(p, "full_tensor")])

train(False)
train(rank == 0)
dist.destroy_process_group()
"""


def test_a_rank_is_watched_without_a_word_from_the_other(
    tmp_path: Path, receive_all: Callable[[], dict[int, Any]]
) -> None:
    """The other samples nothing, so whatever is asked of both would never be answered."""
    (tmp_path / "rank.py").write_text(RANK)

    ranks = [
        subprocess.Popen(
            [sys.executable, str(tmp_path / "rank.py"), str(rank), str(tmp_path)],
            env=os.environ
            | {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
            | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]

    outputs = [rank.communicate(timeout=180)[0].splitlines() for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0]
    for lines in outputs:
        assert lines[5:] == lines[:5]
    received = receive_all()[0]
    assert received.drops == {}
    assert [sample.step.step for sample in received.samples] == [2, 4]
    for sample in received.samples:
        loss, norm = map(float.fromhex, outputs[0][sample.step.step - 1].split())
        assert sample.step.loss == loss
        assert sample.gradients.norm[0] == pytest.approx(norm, rel=1e-6)
        assert sample.gradients.names[0] == "0.weight"
        assert len(sample.gradients.names) == 13
        assert sample.step.local_gradient_norm is None
        (captured,) = sample.attention
        assert captured.call.num_heads == 2  # of four: those that rank 0 computes
