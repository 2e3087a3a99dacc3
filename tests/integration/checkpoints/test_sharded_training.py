"""Two ranks with FSDP2 save their shards; the average is loaded by one process and by two."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.distributed import checkpoint

from tracksided.checkpoints.provenance import read_provenance

pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("ignore:.*torch.distributed is disabled.*:UserWarning"),
]

STEPS = (2, 4, 6)
RANK = """
import os
import sys
from datetime import timedelta
from pathlib import Path
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict
from torch.distributed.fsdp import fully_shard

from tracksided.checkpoints.job import AverageRequest, run_average

rank, out = int(sys.argv[1]), Path(sys.argv[2])
dist.init_process_group(
    "gloo", init_method=f"file://{out}/.rendezvous", rank=rank, world_size=2,
    timeout=timedelta(seconds=60),
)
torch.manual_seed(0)
# Seven rows do not divide by two: the shards differ in size.
model = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 2, bias=False)).bfloat16()
fully_shard(model, mesh=dist.device_mesh.init_device_mesh("cpu", (2,)))
optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
for step in range(1, 7):
    torch.manual_seed(10 * step + rank)
    model(torch.randn(3, 5).bfloat16()).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    if step % 2 == 0:
        weights, moments = get_state_dict(model, optimizer)
        content = {"model": weights, "optim": moments, "step": step}
        dcp.save(content, checkpoint_id=out / f"step_{step}")
if rank == 0:
    run_average(AverageRequest(directory=out, patterns=("*/",)))
dist.barrier()
content = {"model": model.state_dict()}
dcp.load(content, checkpoint_id=out / "averaged")
full = {name: tensor.full_tensor() for name, tensor in content["model"].items()}
if rank == 0:
    torch.save(full, out / "loaded.pt")
dist.destroy_process_group()
os._exit(0)  # without the teardown of gloo's threads, which now and then aborts
"""


def run_ranks(out: Path) -> None:
    command = [sys.executable, "-c", RANK]
    ranks = [
        subprocess.Popen([*command, str(rank), str(out)], stderr=subprocess.PIPE) for rank in (0, 1)
    ]
    try:
        for process in ranks:
            _, errors = process.communicate(timeout=120)
            assert process.returncode == 0, errors.decode()
    finally:
        for process in ranks:
            process.kill()
            process.communicate()


def load(directory: Path, like: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    model = {name: torch.zeros_like(tensor) for name, tensor in like.items()}
    checkpoint.load({"model": model}, checkpoint_id=directory, no_dist=True)
    return model


def test_shards_of_two_ranks_average_to_the_mean(tmp_path: Path) -> None:
    run_ranks(tmp_path)

    shapes = {"0.weight": (7, 5), "0.bias": (7,), "2.weight": (2, 7)}
    like = {name: torch.zeros(shape, dtype=torch.bfloat16) for name, shape in shapes.items()}
    sources = [load(tmp_path / f"step_{step}", like) for step in STEPS]

    provenance = read_provenance(tmp_path / "averaged")
    assert provenance is not None
    assert provenance["step"] == 6
    names = {path.name for path in (tmp_path / "averaged").iterdir()}
    assert names == {".metadata", "__0_0.distcp", "__1_0.distcp", "averaging.json"}
    expected = {
        name: torch.from_numpy(
            np.mean([source[name].double().numpy() for source in sources], axis=0)
        ).bfloat16()
        for name in shapes
    }
    alone = load(tmp_path / "averaged", like)
    together = torch.load(tmp_path / "loaded.pt", weights_only=True)
    for name, tensor in expected.items():
        assert not torch.equal(tensor, sources[-1][name])
        assert torch.equal(alone[name], tensor)
        assert torch.equal(together[name], tensor)
