"""Segments for the tests of the wire."""

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from trackside.wire import segment
from trackside.wire.ring import RingWriter
from trackside.wire.segment import SegmentName

MakeWriter = Callable[..., RingWriter]


@pytest.fixture
def make_writer(shm_dir: Path) -> Iterator[MakeWriter]:
    """Create writers; whatever a test leaves of them is closed and removed."""
    numbers = itertools.count()
    writers: list[RingWriter] = []

    def make(ring_bytes: int = 4096, **options: Callable[[], int]) -> RingWriter:
        name = SegmentName("run", 0, os.getpid(), f"n{next(numbers)}")
        writer = RingWriter.create(shm_dir, name, ring_bytes=ring_bytes, **options)
        writers.append(writer)
        return writer

    yield make
    for writer in writers:
        writer.close()
        segment.remove(writer.path)
