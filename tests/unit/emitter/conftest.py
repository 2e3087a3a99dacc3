"""Fixtures of the emitter's tests: what a daemon would read, and a quiet attach."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from trackside.session import Session, attach
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
    drops: dict[str, int]

    @property
    def steps(self) -> tuple[Step, ...]:
        return tuple(sample.step for sample in self.samples)


def _receive(path: Path) -> Received:
    reader = RingReader.open(path)
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
            reader.commit(record.end)
        return Received(hello, tuple(samples), close, reader.drops)
    finally:
        reader.close()


@pytest.fixture
def receive(shm_dir: Path) -> Callable[[], Received]:
    """Reads the only segment in shared memory, and removes it if its writer has ended."""

    def read() -> Received:
        (path,) = segment.scan(shm_dir)
        received = _receive(path)
        if not segment.is_writer_alive(path):
            segment.remove(path)
        return received

    return read


@pytest.fixture
def quiet_attach(shm_dir: Path, tmp_path: Path) -> Iterator[Callable[..., Session]]:
    """`attach` with a small ring and no daemon; what is open at the end is closed and removed."""
    sessions: list[Session] = []

    def open_session(
        model: torch.nn.Module, optimizer: torch.optim.Optimizer | None = None, **keywords: object
    ) -> Session:
        defaults: dict[str, object] = {
            "save_dir": tmp_path / "out",
            "autostart": False,
            "ring_bytes": 1 << 20,
        }
        session = attach(model, optimizer, **{**defaults, **keywords})
        sessions.append(session)
        return session

    yield open_session
    for session in sessions:
        session.close()
    for path in segment.scan(shm_dir):
        segment.remove(path)
