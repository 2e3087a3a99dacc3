"""The service with directories, and kills while it writes one."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from averaging_service import Clock, settle
from daemon_process import wait_until
from debris import debris
from safetensors.torch import load_file, save_file
from torch.distributed import checkpoint

from tracksided.checkpoints.service import RETRY_S, CheckpointService

pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("ignore:.*torch.distributed is disabled.*:UserWarning"),
]

NUM_ELEMENTS = 20_000_000  # the child is seen while it writes


@pytest.fixture
def service() -> Iterator[CheckpointService]:
    started = CheckpointService(num_threads=1)
    yield started
    started.close()


def save(out: Path, *steps: int, size: int = 10) -> None:
    for step in steps:
        directory = out / f"checkpoint-{step}"
        directory.mkdir()
        save_file({"w": torch.full((size,), float(step))}, directory / "model.safetensors")


def averaged(out: Path) -> torch.Tensor:
    return load_file(out / "averaged" / "model.safetensors")["w"][:3]


def test_a_killed_child_leaves_the_old_directory_and_is_tried_again(
    tmp_path: Path, clock: Clock, service: CheckpointService
) -> None:
    service.watch(tmp_path, run=None)
    save(tmp_path, 1, 2, 3)
    assert [event.step for event in settle(service, clock)] == [3]
    save(tmp_path, 10, 11, 12, 13, 14, size=NUM_ELEMENTS)
    for _ in range(3):
        service.poll(clock.tick())
    wait_until(lambda: bool(debris(tmp_path)))
    assert service._running is not None

    os.kill(service._running.child.pid, signal.SIGKILL)
    (killed,) = settle(service, clock)

    assert killed.error is not None
    assert killed.output == tmp_path / "averaged"
    assert debris(tmp_path) == []
    assert torch.equal(averaged(tmp_path), torch.full((3,), 2.0))
    clock.tick(RETRY_S)
    (retried,) = settle(service, clock)
    assert retried.error is None
    assert torch.equal(averaged(tmp_path), torch.full((3,), 12.0))


@pytest.mark.parametrize(
    ("name", "within", "beside"),
    [
        ("step-{}", "", ()),
        ("epoch=0-step={}.ckpt", "", ("meta.pt",)),  # Lightning's
        ("epoch_{}", "pytorch_model_fsdp_0", ("scheduler.bin",)),  # Accelerate's
    ],
)
def test_distributed_checkpoints_are_followed(
    tmp_path: Path,
    clock: Clock,
    service: CheckpointService,
    *,
    name: str,
    within: str,
    beside: tuple[str, ...],
) -> None:
    service.watch(tmp_path, run="r")
    for step in (1, 2, 3):
        directory = tmp_path / name.format(step)
        content = {"model": {"w": torch.full((5,), float(step))}}
        checkpoint.save(content, checkpoint_id=directory / within, no_dist=True)
        for file in beside:
            torch.save({"epoch": step}, directory / file)

    (event,) = settle(service, clock)

    assert event.error is None
    assert event.sources == tuple(name.format(step) for step in (1, 2, 3))
    found = {"model": {"w": torch.zeros(5)}}
    checkpoint.load(found, checkpoint_id=tmp_path / "averaged" / within, no_dist=True)
    assert torch.equal(found["model"]["w"], torch.full((5,), 2.0))
    assert settle(service, clock) == []
