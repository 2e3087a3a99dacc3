"""The averaging service on a clock that the test moves, and checkpoints of one tensor for it."""

import time
from pathlib import Path

import torch

from tracksided.checkpoints.outcomes import AverageEvent
from tracksided.checkpoints.service import CheckpointService

DEADLINE_S = 60.0


class Clock:
    """Monotonic seconds that the test moves: every poll is a look."""

    def __init__(self) -> None:
        self.now = 0.0

    def tick(self, seconds: float = 10.0) -> float:
        self.now += seconds
        return self.now


def settle(service: CheckpointService, clock: Clock) -> list[AverageEvent]:
    """Poll until nothing is going on any more."""
    events: list[AverageEvent] = []
    deadline = time.monotonic() + DEADLINE_S
    for _ in range(3):
        events += service.poll(clock.tick())
    while service.is_busy():
        assert time.monotonic() < deadline, service.status()
        events += service.poll(clock.tick(0.01))
        time.sleep(0.005)
    return events


def save(directory: Path, *steps: int, size: int = 10) -> None:
    for step in steps:
        torch.save({"w": torch.full((size,), float(step))}, directory / f"step_{step}.pt")


def averaged(directory: Path) -> torch.Tensor:
    tensor: torch.Tensor = torch.load(directory / "averaged_model.pt", weights_only=True)["w"]
    return tensor
