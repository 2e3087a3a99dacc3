"""What Accelerate saves of FSDP, as shards and whole: averaged, loaded and merged by it."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from claimed_lines import MERGED, lines_of
from guide import Guide
from safetensors.torch import load_file

pytestmark = pytest.mark.integration

TRAINING = """
import os
import sys
from pathlib import Path
import torch
import torch.distributed as dist
from accelerate import Accelerator, FullyShardedDataParallelPlugin
from accelerate.utils.fsdp_utils import load_fsdp_model, save_fsdp_model, save_fsdp_optimizer
from torch import nn
from torch.distributed.fsdp import fully_shard
from tracksided.checkpoints.job import AverageRequest, run_average

out, kind = Path(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{out}/.rendezvous", rank=0, world_size=1)
plugin = FullyShardedDataParallelPlugin(fsdp_version=2, state_dict_type=kind)
accelerator = Accelerator(cpu=True)
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
fully_shard(model, mesh=dist.device_mesh.init_device_mesh("cpu", (1,)))
optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)


def keep(name):
    torch.save({k: v.full_tensor() for k, v in model.state_dict().items()}, out / name)


for step in (1, 2, 3):
    model(torch.randn(2, 4)).square().sum().backward()
    optimizer.step()
    directory = out / "checkpoints" / f"step_{step}"
    save_fsdp_model(plugin, accelerator, model, directory)
    save_fsdp_optimizer(plugin, accelerator, optimizer, model, directory)
    keep(f"{step}.pt")
run_average(AverageRequest(directory=out / "checkpoints", patterns=("*/",)))
load_fsdp_model(plugin, accelerator, model, out / "checkpoints" / "averaged")
keep("loaded.pt")
dist.destroy_process_group()
os._exit(0)  # without the teardown of gloo's threads, which now and then aborts
"""


@pytest.mark.parametrize("kind", ["SHARDED_STATE_DICT", "FULL_STATE_DICT"])
def test_accelerate_loads_the_average_of_a_model_of_fsdp(tmp_path: Path, kind: str) -> None:
    command = [sys.executable, "-c", TRAINING, str(tmp_path), kind]
    trained = subprocess.run(command, capture_output=True, timeout=240, check=False)
    assert trained.returncode == 0, trained.stderr.decode()

    seen = [torch.load(tmp_path / f"{step}.pt", weights_only=True) for step in (1, 2, 3)]
    found = [torch.load(tmp_path / "loaded.pt", weights_only=True)]
    if kind == "SHARDED_STATE_DICT":
        (line,) = lines_of(MERGED)
        done = Guide(line.page, tmp_path / "checkpoints").run("bash", "-c", line.text)
        assert done.returncode == 0, done.stderr
        found.append(load_file(tmp_path / "checkpoints" / "OUT" / "model.safetensors"))
    for state in found:
        assert state.keys() == seen[0].keys()
        for name, tensor in state.items():
            mean = np.mean([step[name].double().numpy() for step in seen], axis=0)
            assert torch.equal(tensor, torch.from_numpy(mean).float()), name
            assert not torch.equal(tensor, seen[-1][name])
