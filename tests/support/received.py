"""Reads a segment as a daemon would, and copies everything out of shared memory."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trackside.wire.records import Close, Hello, RecordKind, Step, decode
from trackside.wire.ring import RingReader
from tracksided.samples import Sample, build_sample


@dataclass(frozen=True)
class Received:
    """Everything that one segment held."""

    hello: Hello
    samples: tuple[Sample, ...]
    close: Close | None
    drops: dict[str, int]
    torn_records: int
    is_alive: bool

    @property
    def steps(self) -> tuple[Step, ...]:
        return tuple(sample.step for sample in self.samples)


def read_segment(path: Path, *, consume: bool = False) -> Received:
    """Read all that is published; ``consume`` makes room for more."""
    reader = RingReader.open(path, read_only=not consume)
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
            if consume:
                reader.commit(record.end)
        return Received(
            hello=hello,
            samples=tuple(samples),
            close=close,
            drops=reader.drops,
            torn_records=reader.torn_records,
            is_alive=reader.is_writer_alive(),
        )
    finally:
        reader.close()
