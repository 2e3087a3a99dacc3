"""What the daemon says of checkpoints that it cannot average."""

import time
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from tracksided.checkpoints.service import CheckpointService
from tracksided.cli.status import show_checkpoints

pytestmark = pytest.mark.integration

DEADLINE_S = 90.0


@pytest.fixture
def service(tmp_path: Path) -> Iterator[CheckpointService]:
    made = CheckpointService(min_checkpoints=3, last=3, poll_seconds=0.0)
    made.watch(tmp_path, run=None)
    yield made
    made.close()


def save(directory: Path, *steps: int, keys: tuple[str, ...] = ("w",)) -> None:
    for step in steps:
        state = {key: torch.full((4,), float(step)) for key in keys}
        torch.save(state, directory / f"step_{step}.pt")


def status_after_averaging(service: CheckpointService) -> dict[str, Any]:
    deadline = time.monotonic() + DEADLINE_S
    service.flush()
    service.poll(time.monotonic())
    while service.is_busy():
        assert time.monotonic() < deadline
        service.poll(time.monotonic())
        time.sleep(0.005)
    (entry,) = service.status()["directories"]  # type: ignore[misc]  # as it is written
    return dict(entry)


def shown(entry: dict[str, Any]) -> str:
    output = StringIO()
    show_checkpoints([entry], Console(file=output, soft_wrap=True))
    return output.getvalue()


def test_a_newest_checkpoint_with_other_keys_is_shown_until_enough_are_like_it(
    tmp_path: Path, service: CheckpointService
) -> None:
    save(tmp_path, 1, 2, 3)
    before = status_after_averaging(service)
    save(tmp_path, 4, keys=("w", "adapter"))
    blocked = status_after_averaging(service)
    save(tmp_path, 5, 6, keys=("w", "adapter"))
    after = status_after_averaging(service)

    assert (before["outcome"], before["missing"], before["refused"]) == ("averaged", 0, [])
    assert (blocked["outcome"], blocked["missing"]) == ("waiting", 2)
    assert [entry["name"] for entry in blocked["refused"]] == [
        "step_3.pt",
        "step_2.pt",
        "step_1.pt",
    ]
    assert "not averaged: step_3.pt: keys differ from step_4.pt: it lacks 'adapter'" in shown(
        blocked
    )
    assert "waits for 2 more checkpoints like the newest" in shown(blocked)
    assert "averaged_model.pt from 3 up to step 3" in shown(blocked)
    assert (after["outcome"], after["missing"], after["last"]["step"]) == ("averaged", 0, 6)
    assert "not averaged" not in shown(after)


def test_a_damaged_newest_checkpoint_is_shown_beside_an_average_that_stays(
    tmp_path: Path, service: CheckpointService
) -> None:
    save(tmp_path, 1, 2, 3)
    status_after_averaging(service)
    (tmp_path / "step_4.pt").write_bytes((tmp_path / "step_3.pt").read_bytes()[:-100])

    entry = status_after_averaging(service)

    assert (entry["outcome"], entry["missing"]) == ("unchanged", 0)
    assert [refused["name"] for refused in entry["refused"]] == ["step_4.pt"]
    assert "not averaged: step_4.pt: " in shown(entry)


def test_copies_are_nothing_to_speak_of(tmp_path: Path, service: CheckpointService) -> None:
    save(tmp_path, 1, 2, 3)
    (tmp_path / "last.pt").write_bytes((tmp_path / "step_3.pt").read_bytes())

    entry = status_after_averaging(service)

    assert (entry["outcome"], entry["refused"]) == ("averaged", [])
