"""Lightning's own launcher: the script is rank 0 and starts the others; they are one run."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trackside.wire import segment

pytestmark = pytest.mark.integration

SCRIPT = """
import torch
from lightning.pytorch import LightningModule, Trainer
from trackside.integrations.lightning import TracksideCallback

class Regression(LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 1)
    def training_step(self, batch, _):
        return self.layer(batch).square().mean()
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

trainer = Trainer(max_steps=2, accelerator="cpu", devices=2, strategy="ddp", logger=False,
                  enable_checkpointing=False, enable_progress_bar=False,
                  callbacks=[TracksideCallback(every=1)])
trainer.fit(Regression(), torch.utils.data.DataLoader(torch.ones(8, 4), batch_size=2))
"""


def test_two_ranks_that_lightning_starts_are_one_run(
    receive_from: Callable[[Path], Any], shm_dir: Path, tmp_path: Path
) -> None:
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)

    done = subprocess.run(
        [sys.executable, script],
        env={**os.environ, "GLOO_SOCKET_IFNAME": "lo"},
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    ranks = {received.hello.rank: received for received in map(receive_from, segment.scan(shm_dir))}
    assert sorted(ranks) == [0, 1]
    assert ranks[0].hello.run == ranks[1].hello.run
    assert [ranks[rank].hello.local_world_size for rank in (0, 1)] == [2, 2]
    assert sorted(ranks[1].steps) == [1, 2]
