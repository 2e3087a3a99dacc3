"""Much goes on at once: what is complete is averaged all the same, and each run in its turn."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from averaging_service import Clock, averaged, save
from daemon_process import wait_until

from tracksided.checkpoints.process import COMMAND
from tracksided.checkpoints.service import CheckpointService

if TYPE_CHECKING:
    from tracksided.checkpoints.outcomes import AverageEvent

pytestmark = pytest.mark.integration

POLL_S = 5.0


def test_checkpoints_are_averaged_while_others_are_being_written(
    tmp_path: Path, clock: Clock, make_service: Callable[..., CheckpointService]
) -> None:
    service = make_service(poll_seconds=POLL_S)
    service.watch(tmp_path, run=None)
    growing = tmp_path / "step_100.pt"
    events: list[AverageEvent] = []

    def look() -> bool:
        """A poll in which one file has grown, as a writer leaves it: no zip file yet."""
        with growing.open("ab") as file:
            file.write(b"x")
        return poll()

    def poll() -> bool:
        """Poll; time stands still while the child works, however long it takes to start."""
        events.extend(service.poll(clock.tick(0.0 if service.is_busy() else POLL_S)))
        return bool(events)

    save(tmp_path, 1, 2, 3)
    wait_until(look)

    assert [(event.sources, event.error) for event in events] == [
        (("step_1.pt", "step_2.pt", "step_3.pt"), None)
    ]
    assert torch.equal(averaged(tmp_path), torch.full((10,), 2.0))
    (told,) = service.status()["directories"]  # type: ignore[misc] # a list
    assert told["refused"] == []
    events.clear()
    save(tmp_path, 4)
    wait_until(look)
    assert events[0].sources == ("step_1.pt", "step_2.pt", "step_3.pt", "step_4.pt")

    torch.save({"w": torch.full((10,), 100.0)}, growing)
    events.clear()
    wait_until(poll)

    assert events[0].sources[-1] == "step_100.pt"


def test_nothing_is_averaged_anew_while_nothing_new_is_complete(
    tmp_path: Path, clock: Clock, make_service: Callable[..., CheckpointService]
) -> None:
    service = make_service(poll_seconds=POLL_S, last=3)
    service.watch(tmp_path, run=None)
    save(tmp_path, 1, 2, 3, 4)
    events: list[AverageEvent] = []
    wait_until(lambda: bool(events.extend(service.poll(clock.tick(POLL_S))) or events))

    (tmp_path / "step_1.pt").unlink()  # a rotation makes room before it writes
    for size in range(20):
        (tmp_path / "step_5.pt").write_bytes(b"x" * size)
        assert service.poll(clock.tick(POLL_S)) == ()
        assert not service.is_busy()


def test_a_run_that_has_ended_keeps_its_turn_when_others_end(
    tmp_path: Path, clock: Clock, make_service: Callable[..., CheckpointService]
) -> None:
    first, second, empty = (tmp_path / name for name in ("first", "second", "empty"))
    gate = tmp_path / "gate"
    gate.touch()
    held_up = ("sh", "-c", 'while [ -e "$0" ]; do sleep 0.01; done; exec "$@"', str(gate))
    service = make_service(poll_seconds=3600.0, command=(*held_up, *COMMAND))
    for directory in (first, second, empty):
        directory.mkdir()
        service.watch(directory, run=directory.name)
    service.poll(clock.tick(1.0))
    for directory in (first, second):
        save(directory, 1, 2, 3)
        service.flush(directory)
        service.poll(clock.tick(1.0))

    service.flush(empty)
    service.poll(clock.tick(1.0))
    gate.unlink()
    events: list[AverageEvent] = []
    wait_until(lambda: bool(events.extend(service.poll(clock.tick(0.01)))) or not service.is_busy())

    assert [(event.run, event.error) for event in events] == [("first", None), ("second", None)]
    assert torch.equal(averaged(second), torch.full((10,), 2.0))
