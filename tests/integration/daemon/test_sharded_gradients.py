"""Two ranks with FSDP2: the daemon's norms are those of the whole gradients."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from daemon_process import DaemonProcess, wait_until
from written import load

pytestmark = pytest.mark.integration

RANK = """
import json, sys
from datetime import timedelta
from pathlib import Path
import torch, trackside
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard

rank, out = int(sys.argv[1]), Path(sys.argv[2])
dist.init_process_group(
    "gloo", init_method=f"file://{out}/.rendezvous", rank=rank, world_size=2,
    timeout=timedelta(seconds=60),
)
torch.manual_seed(0)
# Seven rows do not divide by two, and the last layer's one row leaves rank 1 nothing.
model = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 1))
fully_shard(model, mesh=dist.device_mesh.init_device_mesh("cpu", (2,)))
optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
session = trackside.attach(
    model, optimizer, every=1, attention=False, save_dir=out / "run", run="sharded",
    autostart=False, ring_bytes=1 << 20,
)
expected = []
for step in (1, 2, 3):
    torch.manual_seed(10 * step + rank)
    model(torch.randn(3, 5)).square().sum().backward()
    clipped = step == 2
    before = {name: p.grad.full_tensor() for name, p in model.named_parameters()}
    if clipped:
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)
    after = {name: p.grad.full_tensor() for name, p in model.named_parameters()}
    weights = {name: p.full_tensor() for name, p in model.named_parameters()}
    def norm(tensors):
        return torch.cat([t.double().ravel() for t in tensors]).norm().item()
    expected.append({
        "before": norm(before.values()), "after": norm(after.values()),
        "norm": {name: norm([t]) for name, t in after.items()},
        "abs_max": {name: t.abs().max().item() for name, t in after.items()},
        "weight_norm": {name: norm([t]) for name, t in weights.items()},
    })
    optimizer.step()
    optimizer.zero_grad()
session.close()
if rank == 0:
    (out / "expected.json").write_text(json.dumps(expected))
dist.destroy_process_group()
"""


def test_norms_of_a_sharded_model_are_those_of_the_whole(
    shm_dir: Path, tmp_path: Path, daemon: DaemonProcess
) -> None:
    script = tmp_path / "rank.py"
    script.write_text(RANK)
    daemon.start()
    identity = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "TRACKSIDE_SHM_DIR": str(shm_dir)}

    ranks = [
        subprocess.Popen(
            [sys.executable, str(script), str(rank), str(tmp_path)],
            env=os.environ | identity | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in (0, 1)
    ]

    assert [rank.wait(timeout=120) for rank in ranks] == [0, 0]
    wait_until(lambda: not list(shm_dir.glob("*.ring")))
    for step, expected in enumerate(json.loads((tmp_path / "expected.json").read_text()), start=1):
        statistics = load(tmp_path / "run" / f"step_{step}" / "statistics.json")
        gradients = statistics["gradients"]
        assert gradients["norm_before_clip"] == pytest.approx(expected["before"], rel=1e-5)
        assert gradients["norm_after_clip"] == pytest.approx(expected["after"], rel=1e-5)
        assert gradients["clipped"] is (step == 2)
        found = {parameter["name"]: parameter for parameter in gradients["parameters"]}
        assert sorted(found) == sorted(expected["norm"])
        for name, parameter in found.items():
            for key in ("norm", "abs_max", "weight_norm"):
                assert parameter[key] == pytest.approx(expected[key][name], rel=1e-5), (name, key)
        assert [rank["weight_checksum"] for rank in statistics["ranks"]] == [None, None]
