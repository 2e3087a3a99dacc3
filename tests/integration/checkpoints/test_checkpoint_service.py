"""The service follows directories of checkpoints, with real child processes and a real trainer."""

import errno
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from averaging_service import Clock, averaged, save, settle
from click.testing import CliRunner
from debris import debris

from tracksided.checkpoints import service as service_module
from tracksided.checkpoints.service import CheckpointService
from tracksided.checkpoints.watcher import Look
from tracksided.cli.average import command

pytestmark = pytest.mark.integration

TRAINER = """
import sys, time, torch
from torch import nn
directory, steps = sys.argv[1], int(sys.argv[2])
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 1))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
for step in range(1, steps + 1):
    x = torch.randn(32, 8)
    loss = (model(x) - x.sum(1, keepdim=True)).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 10 == 0:
        content = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
        torch.save(content, f"{directory}/checkpoint_{step}.pt")
"""


def test_checkpoints_of_a_real_training_are_averaged(
    tmp_path: Path, clock: Clock, make_service: Callable[..., CheckpointService]
) -> None:
    directory = tmp_path / "checkpoints"
    service = make_service()
    service.watch(directory, run="run-1")
    service.watch(directory, run="run-1")
    assert settle(service, clock) == []
    directory.mkdir()
    trainer = subprocess.Popen([sys.executable, "-c", TRAINER, str(directory), "70"])
    events = list(service.poll(clock.tick(0.5)))
    while trainer.poll() is None:
        events += service.poll(clock.tick(0.5))
        time.sleep(0.02)
    assert trainer.returncode == 0

    service.flush(directory)
    events += settle(service, clock)

    last = events[-1]
    assert all(event.error is None for event in events)
    assert (last.directory, last.run, last.step) == (directory, "run-1", 70)
    assert last.output == directory / "averaged_model.pt"
    assert last.sources == tuple(f"checkpoint_{step}.pt" for step in (30, 40, 50, 60, 70))
    states = [torch.load(directory / name, weights_only=True)["model"] for name in last.sources]
    result = torch.load(last.output, weights_only=True)
    assert "optimizer" not in result
    for name, tensor in result["model"].items():
        mean = np.mean([state[name].double().numpy() for state in states], axis=0)
        assert torch.equal(tensor, torch.from_numpy(mean).float())
    assert debris(directory) == []


def test_one_that_is_refused_after_the_choice_is_named_and_does_not_hold_up_the_others(
    tmp_path: Path, clock: Clock, make_service: Callable[..., CheckpointService]
) -> None:
    for step in range(1, 7):
        tensor = torch.full((3,), float(step))
        other = tensor.clone() if step == 3 else tensor
        torch.save({"a": tensor, "b": other}, tmp_path / f"step_{step}.pt")
    service = make_service()
    service.watch(tmp_path, run="run-1")

    (event,) = settle(service, clock)

    assert event.error is None
    assert event.sources == tuple(f"step_{step}.pt" for step in (1, 2, 4, 5, 6))
    (status,) = service.status()["directories"]
    statuses: Any = service.status()["directories"]
    (status,) = statuses
    assert status["refused"] == [
        {
            "name": "step_3.pt",
            "reason": "'a' and 'b' do not share memory as they do in step_6.pt",
        }
    ]


def test_it_waits_for_the_minimum_and_follows_new_checkpoints(
    tmp_path: Path, clock: Clock, make_service: Callable[..., CheckpointService]
) -> None:
    service = make_service()
    service.watch(tmp_path, run=None)
    save(tmp_path, 1, 2)
    assert settle(service, clock) == []
    assert not (tmp_path / "averaged_model.pt").exists()

    save(tmp_path, 3)
    (first,) = settle(service, clock)
    assert settle(service, clock) == []
    save(tmp_path, 4, 5, 6, 7)
    (second,) = settle(service, clock)

    assert (first.step, second.step) == (3, 7)
    assert torch.equal(averaged(tmp_path), torch.full((10,), 5.0))
    status = service.status()
    assert json.loads(json.dumps(status)) == status


def test_a_restarted_daemon_does_not_average_the_same_again(
    tmp_path: Path, clock: Clock, make_service: Callable[..., CheckpointService]
) -> None:
    save(tmp_path, 1, 2, 3)
    before = make_service()
    before.watch(tmp_path, run=None)
    (made,) = settle(before, clock)
    published = (tmp_path / "averaged_model.pt").stat()

    after = make_service()
    after.watch(tmp_path, run=None)

    # Told once, in case nobody was told when it was made.
    assert settle(after, clock) == [replace(made, is_found=True)]
    after.flush(tmp_path)
    assert settle(after, clock) == []
    assert (tmp_path / "averaged_model.pt").stat().st_ino == published.st_ino
    (tmp_path / "averaged_model.pt").unlink()
    save(tmp_path, 3)
    assert len(settle(after, clock)) == 1


def test_a_half_written_checkpoint_waits_until_it_is_whole(
    tmp_path: Path, clock: Clock, make_service: Callable[..., CheckpointService]
) -> None:
    save(tmp_path, 1, 2, 3, 4)
    whole = (tmp_path / "step_4.pt").read_bytes()
    (tmp_path / "step_4.pt").write_bytes(whole[: len(whole) // 2])
    service = make_service()
    service.watch(tmp_path, run=None)

    (first,) = settle(service, clock)
    (tmp_path / "step_4.pt").write_bytes(whole)
    (second,) = settle(service, clock)

    assert first.sources == ("step_1.pt", "step_2.pt", "step_3.pt")
    assert second.sources == ("step_1.pt", "step_2.pt", "step_3.pt", "step_4.pt")


def test_directories_that_vanish_are_survived(
    tmp_path: Path, clock: Clock, make_service: Callable[..., CheckpointService]
) -> None:
    directory = tmp_path / "c"
    directory.mkdir()
    save(directory, 1, 2, 3)
    service = make_service()
    service.watch(directory, run=None)
    assert len(settle(service, clock)) == 1
    for path in directory.iterdir():
        path.unlink()
    directory.rmdir()

    assert settle(service, clock) == []
    directory.mkdir()
    save(directory, 4, 5, 6)
    (event,) = settle(service, clock)
    assert event.step == 6


def test_directory_that_is_watched_no_longer_is_left_alone(tmp_path: Path) -> None:
    service = CheckpointService(min_checkpoints=2, poll_seconds=0.01)
    service.watch(tmp_path / "checkpoints", run="r")
    service.unwatch(tmp_path / "checkpoints")
    service.unwatch(tmp_path / "never")

    assert service.poll(0.0) == ()
    assert service.status() == {"directories": []}
    service.close()


def test_a_link_to_itself_costs_no_average_and_is_named(
    tmp_path: Path, clock: Clock, make_service: Callable[..., CheckpointService]
) -> None:
    save(tmp_path, 1, 2, 3)
    (tmp_path / "loop.pt").symlink_to("loop.pt")
    service = make_service()
    service.watch(tmp_path, run=None)

    (event,) = settle(service, clock)

    assert event.error is None
    status: Any = service.status()["directories"]
    reason = f"cannot be looked at: {os.strerror(errno.ELOOP)}"
    assert status[0]["refused"] == [{"name": "loop.pt", "reason": reason}]


def test_an_unforeseen_error_costs_its_directory_alone_and_is_told_once(
    tmp_path: Path,
    clock: Clock,
    make_service: Callable[..., CheckpointService],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    broken, sound = tmp_path / "broken", tmp_path / "sound"
    sound.mkdir()
    save(sound, 1, 2, 3)
    really_look = service_module.look

    def look(directory: Path) -> Look:
        if directory == broken:
            raise ZeroDivisionError("nobody foresaw it")
        return really_look(directory)

    monkeypatch.setattr(service_module, "look", look)
    service = make_service()
    service.watch(broken, run=None)
    service.watch(sound, run=None)

    events = settle(service, clock)

    assert [(event.directory, event.error) for event in events] == [
        (broken, "ZeroDivisionError: nobody foresaw it"),
        (sound, None),
    ]
    (record,) = [record for record in caplog.records if record.exc_info is not None]
    assert str(broken) in record.getMessage()


def test_a_rotation_that_keeps_too_few_is_said(
    tmp_path: Path,
    clock: Clock,
    make_service: Callable[..., CheckpointService],
    caplog: pytest.LogCaptureFixture,
) -> None:
    def entry() -> dict[str, Any]:
        directories: Any = service.status()["directories"]
        found: dict[str, Any] = directories[0]
        return found

    service = make_service()
    service.watch(tmp_path, run=None)
    for step in range(1, 7):
        save(tmp_path, step)
        (tmp_path / f"step_{step - 2}.pt").unlink(missing_ok=True)
        assert settle(service, clock) == []
        assert entry()["kept"] == (2 if step > 2 else None)

    assert (entry()["outcome"], entry()["missing"]) == ("waiting", 1)
    assert caplog.text.count("2 checkpoints are kept, 3 are needed") == 1
    save(tmp_path, 7)
    assert [event.step for event in settle(service, clock)] == [7]
    assert (entry()["outcome"], entry()["missing"], entry()["kept"]) == ("averaged", 0, None)


def test_it_averages_the_series_that_the_command_would(
    tmp_path: Path, clock: Clock, make_service: Callable[..., CheckpointService]
) -> None:
    for step in (100, 200, 300):
        for name, scale in (("model", 1.0), ("model_ema", 7.0)):
            weights = {"w": torch.full((4,), scale * step)}
            torch.save(weights, tmp_path / f"{name}_{step}.pth.tar")
    service = make_service()
    service.watch(tmp_path, run=None)

    (event,) = settle(service, clock)
    result = CliRunner().invoke(command, [str(tmp_path), "--dry-run", "--json"])

    assert event.sources == ("model_100.pth.tar", "model_200.pth.tar", "model_300.pth.tar")
    assert torch.equal(averaged(tmp_path), torch.full((4,), 200.0))
    assert [entry["name"] for entry in json.loads(result.stdout)["sources"]] == list(event.sources)
    assert service.status()["directories"][0]["refused"] == []  # nothing is wrong with the EMA
