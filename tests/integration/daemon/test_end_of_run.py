"""What is still to be done when a run ends."""

from pathlib import Path

import pytest
import torch
from daemon_process import DaemonProcess, wait_until
from fake_trainer import FakeRank, make_hello
from written import load

pytestmark = pytest.mark.integration


def test_the_last_average_is_part_of_the_totals(
    shm_dir: Path, tmp_path: Path, daemon: DaemonProcess
) -> None:
    """The run ends with the answer of a worker, and so between two looks at the checkpoints."""
    out, checkpoints = tmp_path / "run", tmp_path / "checkpoints"
    checkpoints.mkdir()
    rank = FakeRank(shm_dir, make_hello(out, checkpoints=(str(checkpoints),)))
    rank.publish(1)
    for step in (1, 2, 3):
        torch.save({"weight": torch.full((3,), float(step))}, checkpoints / f"step_{step}.pt")
    rank.close(steps=1)

    daemon.start()

    wait_until((out / "training_statistics.json").exists)
    wait_until(lambda: not list(shm_dir.glob("*.ring")))
    (average,) = load(out / "training_statistics.json")["averages"]
    assert average["sources"] == ["step_1.pt", "step_2.pt", "step_3.pt"]
    assert torch.load(checkpoints / "averaged_model.pt")["weight"].tolist() == [2.0, 2.0, 2.0]
