"""Two lines in a script, and nothing else: a daemon starts by itself and writes the run."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from daemon_process import wait_until
from written import load, steps

from trackside.wire.locks import daemon_pid
from trackside.wire.segment import scan

pytestmark = pytest.mark.integration

SCRIPT = """
import torch, trackside
model = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
trackside.attach(model, optimizer)
for _ in range(200):
    optimizer.zero_grad()
    model(torch.ones(1, 4, 8)).square().mean().backward()
    optimizer.step()
"""


def test_two_lines_leave_a_run_on_disk(shm_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(SCRIPT)
    logs = tmp_path / "trackside_logs"

    try:
        subprocess.run(
            [sys.executable, "train.py"],
            cwd=tmp_path,
            env=os.environ | {"XDG_STATE_HOME": str(tmp_path / "state")},
            timeout=120,
            check=True,
        )
        wait_until(lambda: logs.exists() and not scan(shm_dir))
    finally:
        pid = daemon_pid(shm_dir)
        if pid is not None:
            os.kill(pid, signal.SIGTERM)
            wait_until(lambda: daemon_pid(shm_dir) is None)

    (run,) = logs.iterdir()
    assert pid is not None
    assert steps(run) == [100, 200]
    assert load(run / "training_statistics.json")["state"] == "finished"
    assert (run / "step_200" / "encoder_layer0_self_attn.png").exists()
