"""Lightning saves sharded checkpoints; their average is found, made, and loaded by it."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tracksided.checkpoints.job import AverageRequest, run_average
from tracksided.checkpoints.provenance import Provenance
from tracksided.checkpoints.watcher import DIRECTORY_PATTERN, look
from tracksided.cli.average import PATTERNS

pytest.importorskip("lightning")
pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("ignore")]

# FSDPStrategy wants a GPU; this strategy writes the same files, on a CPU too.
TRAINING = """
import sys
import torch
import lightning
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import nn
from torch.distributed.fsdp import fully_shard


class Net(lightning.LightningModule):
    def __init__(self, width=4):
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Sequential(nn.Linear(5, width), nn.Linear(width, 2))

    def configure_model(self):
        fully_shard(self.net, mesh=self.device_mesh["data_parallel"])

    def training_step(self, batch, index):
        return self.net(batch).square().mean()

    def validation_step(self, batch, index):
        torch.save({k: v.full_tensor() for k, v in self.state_dict().items()}, "loaded.pt")

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=0.1)


torch.manual_seed(0)
data = torch.utils.data.DataLoader(torch.randn(8, 5), batch_size=4)
trainer = lightning.Trainer(
    max_epochs=3, accelerator="cpu", devices=1, logger=False, enable_progress_bar=False,
    strategy=ModelParallelStrategy(process_group_backend="gloo"),
    callbacks=[ModelCheckpoint("checkpoints", save_top_k=-1)],
)
if sys.argv[1] == "fit":
    trainer.fit(Net(width=3), data)
else:
    trainer.validate(Net(width=3), data, ckpt_path="checkpoints/averaged", weights_only=True)
"""


def lightning(out: Path, task: str) -> None:
    command = [sys.executable, "-c", TRAINING, task]
    done = subprocess.run(command, cwd=out, capture_output=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr.decode()


def consolidated(directory: Path) -> dict[str, torch.Tensor]:
    """Make one checkpoint of shards with Lightning's own command."""
    whole = directory.with_name(directory.name + ".whole")
    module = "lightning.fabric.utilities.consolidate_checkpoint"
    command = [sys.executable, "-m", module, str(directory), "--output_file", str(whole)]
    subprocess.run(command, check=True, capture_output=True, timeout=240)
    loaded = torch.load(whole, weights_only=True)
    assert loaded["hyper_parameters"] == {"width": 3}
    state: dict[str, torch.Tensor] = loaded["state_dict"]
    return state


def test_lightning_loads_the_average_of_its_shards(tmp_path: Path) -> None:
    lightning(tmp_path, "fit")
    checkpoints = tmp_path / "checkpoints"
    seen = look(checkpoints)
    assert len(seen.names) == 3
    assert seen.patterns == (DIRECTORY_PATTERN,)

    made = run_average(AverageRequest(directory=checkpoints, patterns=PATTERNS))

    assert isinstance(made, Provenance)
    assert [source.step for source in made.sources] == [2, 4, 6]
    assert made.dropped == ("optimizer_0",)
    sources = [consolidated(checkpoints / source.name) for source in made.sources]
    lightning(tmp_path, "validate")
    loaded = torch.load(tmp_path / "loaded.pt", weights_only=True)
    whole = consolidated(checkpoints / "averaged")
    assert whole.keys() == loaded.keys() == sources[0].keys()
    for name in loaded:
        mean = np.mean([source[name].double().numpy() for source in sources], axis=0)
        expected = torch.from_numpy(mean).float()
        assert torch.equal(loaded[name], expected)
        assert torch.equal(whole[name], expected)
        assert not torch.equal(expected, sources[-1][name])
