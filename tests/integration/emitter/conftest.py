"""Fixtures of the emitter's tests with real processes."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from trackside.wire import segment
from trackside.wire.records import Close, Hello, RecordKind, Step, decode
from trackside.wire.ring import RingReader
from tracksided.samples import Sample, build_sample


@dataclass(frozen=True)
class Received:
    """Everything that one segment held, copied out of shared memory."""

    hello: Hello
    samples: tuple[Sample, ...]
    close: Close | None
    torn_records: int
    is_alive: bool


@pytest.fixture
def receive_all(shm_dir: Path) -> Iterator[Callable[[], dict[int, Received]]]:
    """Reads every segment, by rank; removes what is left at the end."""

    def read_all() -> dict[int, Received]:
        return {
            received.hello.rank: received
            for received in (_receive(path) for path in segment.scan(shm_dir))
        }

    yield read_all
    for path in segment.scan(shm_dir):
        segment.remove(path)


def _receive(path: Path) -> Received:
    reader = RingReader.open(path, read_only=True)
    try:
        hello = decode(Hello, reader.hello())
        samples: list[Sample] = []
        close: Close | None = None
        while (record := reader.poll()) is not None:
            if record.kind == RecordKind.STEP:
                step = decode(Step, record.metadata)
                payload = memoryview(np.frombuffer(record.payload, np.uint8).copy())
                samples.append(build_sample(hello, step, payload))
            else:
                close = decode(Close, record.metadata)
        return Received(hello, tuple(samples), close, reader.torn_records, reader.is_writer_alive())
    finally:
        reader.close()
