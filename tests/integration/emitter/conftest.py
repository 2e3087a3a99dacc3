"""Fixtures of the emitter's tests with real processes."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from received import Received, read_segment

from trackside.wire import segment


@pytest.fixture
def receive_all(shm_dir: Path) -> Iterator[Callable[[], dict[int, Received]]]:
    """Reads every segment, by rank; removes what is left at the end."""

    def read_all() -> dict[int, Received]:
        return {
            received.hello.rank: received
            for received in (read_segment(path) for path in segment.scan(shm_dir))
        }

    yield read_all
    for path in segment.scan(shm_dir):
        segment.remove(path)
