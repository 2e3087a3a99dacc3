"""A failed averaging is tried again where that may help, and is told of once."""

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
import torch
from averaging_service import Clock, averaged, save, settle

from tracksided.checkpoints import service as service_module
from tracksided.checkpoints.process import COMMAND, ChildProcess
from tracksided.checkpoints.service import MAX_CRASHES, MAX_RETRY_S, RETRY_S, CheckpointService

pytestmark = pytest.mark.integration

NUM_ELEMENTS = 50_000  # three checkpoints of 200 kB fit on the disk, and an average of them
FILLER_BYTES = 350_000  # with which the average does not


@pytest.fixture
def attempts(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """When a child was started, by the clock of the test."""
    started: list[float] = []

    class Counted(ChildProcess):
        def __init__(self, request: Mapping[str, object], command: Sequence[str]) -> None:
            started.append(0.0)
            super().__init__(request, command)

    monkeypatch.setattr(service_module, "ChildProcess", Counted)
    return started


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small file system")
def test_a_full_disk_is_tried_again_until_there_is_room(
    small_disk: Path,
    clock: Clock,
    make_service: Callable[..., CheckpointService],
    attempts: list[float],
    caplog: pytest.LogCaptureFixture,
) -> None:
    service = make_service()
    service.watch(small_disk, run=None)
    save(small_disk, 1, 2, 3, size=NUM_ELEMENTS)
    filler = small_disk / "filler"
    filler.write_bytes(bytes(FILLER_BYTES))

    (failed,) = settle(service, clock)

    assert failed.error is not None
    assert "No space left on device" in failed.error
    wait_s = RETRY_S
    for number in range(1, 9):
        assert service.is_retrying(small_disk)
        clock.tick(wait_s - 40.0)
        assert settle(service, clock) == []  # three polls of 10 s
        assert len(attempts) == number  # not before its time
        clock.tick(10.0)
        assert settle(service, clock) == []  # told of once
        assert len(attempts) == number + 1
        wait_s = min(2 * wait_s, MAX_RETRY_S)
    assert caplog.text.count("No space left on device") == 1

    filler.unlink()
    clock.tick(MAX_RETRY_S)
    (made,) = settle(service, clock)

    assert made.error is None
    assert torch.equal(averaged(small_disk)[:10], torch.full((10,), 2.0))
    assert not service.is_retrying(small_disk)


def test_a_failure_with_other_checkpoints_is_told_of_anew(
    tmp_path: Path, clock: Clock, make_service: Callable[..., CheckpointService]
) -> None:
    service = make_service()
    service.watch(tmp_path, run=None)
    save(tmp_path, 1, 2, 3)
    in_the_way = tmp_path / "averaged_model.pt"
    in_the_way.mkdir()
    (in_the_way / "file").touch()
    (failed,) = settle(service, clock)
    assert failed.error is not None
    assert "Is a directory" in failed.error

    save(tmp_path, 4)
    (again,) = settle(service, clock)
    assert again.error == failed.error

    (in_the_way / "file").unlink()
    in_the_way.rmdir()
    clock.tick(RETRY_S)
    (made,) = settle(service, clock)
    assert made.error is None


def test_what_no_waiting_mends_is_not_tried_again(
    tmp_path: Path,
    clock: Clock,
    make_service: Callable[..., CheckpointService],
    attempts: list[float],
) -> None:
    service = make_service()
    service.watch(tmp_path, run=None)
    save(tmp_path, 1, 2, 3)
    (tmp_path / "averaged_model.json").write_text("[]")

    (failed,) = settle(service, clock)
    clock.tick(2 * MAX_RETRY_S)

    assert failed.error is not None
    assert settle(service, clock) == []
    assert len(attempts) == 1
    assert not service.is_retrying(tmp_path)


def test_sources_that_may_not_be_read_are_tried_again(
    tmp_path: Path,
    clock: Clock,
    make_service: Callable[..., CheckpointService],
    attempts: list[float],
) -> None:
    bound_by_modes = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
    service = make_service(command=(*(bound_by_modes if os.geteuid() == 0 else ()), *COMMAND))
    service.watch(tmp_path, run=None)
    save(tmp_path, 1, 2, 3)
    (tmp_path / "step_2.pt").chmod(0)

    assert settle(service, clock) == []

    (told,) = service.status()["directories"]  # type: ignore[misc] # a list
    (refused,) = told["refused"]
    assert refused == {"name": "step_2.pt", "reason": "cannot be opened: Permission denied"}
    clock.tick(RETRY_S)
    assert settle(service, clock) == []
    assert len(attempts) == 2

    (tmp_path / "step_2.pt").chmod(0o600)
    clock.tick(2 * RETRY_S)
    (made,) = settle(service, clock)

    assert made.sources == ("step_1.pt", "step_2.pt", "step_3.pt")
    assert not service.is_retrying(tmp_path)


def test_checkpoints_that_end_every_process_are_left_alone_after_some(
    tmp_path: Path,
    clock: Clock,
    make_service: Callable[..., CheckpointService],
    attempts: list[float],
) -> None:
    """Memory may be free again the next time; a file that ends the process stays as it is."""
    service = make_service(command=[sys.executable, "-c", "import os; os._exit(9)"])
    service.watch(tmp_path, run=None)
    save(tmp_path, 1, 2, 3)

    failures = settle(service, clock)
    for _ in range(2 * MAX_CRASHES):
        clock.tick(RETRY_S)
        failures += settle(service, clock)

    assert len(attempts) == len(failures) == MAX_CRASHES
    assert {failure.error for failure in failures} == {"the averaging process exited 9"}

    save(tmp_path, 4)
    assert len(settle(service, clock)) == 1
