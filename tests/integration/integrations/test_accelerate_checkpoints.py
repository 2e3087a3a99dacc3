"""A real `Accelerator` names its checkpoints itself, deletes and loads them, beside a daemon."""

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import ProjectConfiguration
from daemon_process import DaemonProcess, wait_until
from safetensors.torch import load_file
from torch import nn

from trackside.integrations.accelerate import TracksideTracker

pytestmark = pytest.mark.integration

KEPT = 3


class Training:
    """A model of one layer; every step saves what Accelerate calls the state."""

    def __init__(self, project: Path, **settings: object) -> None:
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
        torch.manual_seed(0)
        configuration = ProjectConfiguration(
            str(project), automatic_checkpoint_naming=True, total_limit=KEPT
        )
        self.accelerator = Accelerator(cpu=True, project_config=configuration, **settings)
        model = nn.Linear(4, 4)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
        self.model, self.optimizer = self.accelerator.prepare(model, optimizer)

    def step(self) -> None:
        self.accelerator.backward(self.model(torch.ones(2, 4)).pow(2).sum())
        self.optimizer.step()
        self.optimizer.zero_grad()

    def step_and_save(self) -> None:
        self.step()
        self.accelerator.save_state()


@pytest.fixture
def watching(daemon: DaemonProcess, tmp_path: Path) -> Iterator[Path]:
    """A project whose checkpoints a daemon watches."""
    project = tmp_path / "project"
    config = tmp_path / "daemon.toml"
    directories = json.dumps([str(project / "checkpoints")])
    config.write_text(f"[checkpoints]\ndirectories = {directories}\npoll_seconds = 0.2\n")
    daemon.start("--config", str(config))
    yield project
    assert daemon.stop() == 0


def newest_source(project: Path) -> str | None:
    written = project / "checkpoints-averaged" / "averaging.json"
    return json.loads(written.read_text())["sources"][-1]["name"] if written.exists() else None


def told(daemon: DaemonProcess) -> dict[str, Any]:
    (directory,) = daemon.status["checkpoints"]["directories"]
    return dict(directory)


def test_checkpoints_are_averaged_while_accelerate_rotates_and_loads_them(
    watching: Path, daemon: DaemonProcess
) -> None:
    training = Training(watching)
    checkpoints = watching / "checkpoints"

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Accelerate's own
        for number in range(2 * KEPT + 1):
            training.step_and_save()
            if number >= KEPT - 1:
                wait_until(lambda number=number: newest_source(watching) == f"checkpoint_{number}")
        last = {name: w.clone() for name, w in training.model.state_dict().items()}
        training.step()
        training.accelerator.load_state()

    for name, weight in training.model.state_dict().items():
        assert torch.equal(weight, last[name])
    left = sorted(path.name for path in checkpoints.iterdir())
    assert left == [f"checkpoint_{number}" for number in range(KEPT + 1, 2 * KEPT + 1)]
    found = load_file(watching / "checkpoints-averaged" / "model.safetensors")
    sources = [load_file(checkpoints / name / "model.safetensors") for name in left]
    for name, tensor in found.items():
        mean = np.mean([source[name].double().numpy() for source in sources], axis=0)
        assert torch.equal(tensor, torch.from_numpy(mean).float())
    assert f"into {watching / 'checkpoints-averaged'} in" in daemon.output
    wait_until(lambda: told(daemon)["state"] == "idle" and told(daemon)["last"] is not None)
    assert told(daemon)["last"]["output"] == str(watching / "checkpoints-averaged")
    beside = {"checkpoints", "checkpoints-averaged"}
    wait_until(lambda: {path.name for path in watching.iterdir()} == beside)


def test_a_tracker_and_no_further_line_have_them_averaged(
    daemon: DaemonProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    daemon.start()
    tracker = TracksideTracker(run="numbered")
    training = Training(tmp_path / "project", log_with=tracker)
    training.accelerator.init_trackers("project")
    tracker.attach(training.model, training.optimizer)

    for _ in range(KEPT):
        training.step_and_save()
    training.accelerator.end_training()

    wait_until(lambda: newest_source(tmp_path / "project") == f"checkpoint_{KEPT - 1}")
    written = tmp_path / "trackside_logs" / "numbered" / "training_statistics.json"
    wait_until(written.exists)
    wait_until(lambda: not list(daemon.directory.glob("*.ring")))
    (average,) = json.loads(written.read_text())["averages"]
    assert average["output"] == str(tmp_path / "project" / "checkpoints-averaged")
    assert average["sources"] == [f"checkpoint_{number}" for number in range(KEPT)]
