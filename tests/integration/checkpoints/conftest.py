"""A service that is closed at the end of the test, and its clock."""

from collections.abc import Callable, Iterator

import pytest
from averaging_service import Clock

from tracksided.checkpoints.service import CheckpointService


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def make_service() -> Iterator[Callable[..., CheckpointService]]:
    services: list[CheckpointService] = []

    def make(**options: object) -> CheckpointService:
        services.append(CheckpointService(**options))  # type: ignore[arg-type] # as given
        return services[-1]

    yield make
    for service in services:
        service.close()
