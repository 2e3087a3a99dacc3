"""What a training under a framework has published, read from the real segment."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from received import read_segment

from trackside.wire import segment
from trackside.wire.records import Close, Hello, LoggedScalar, Step
from tracksided.samples import Sample


@dataclass(frozen=True)
class Received:
    """Everything that one session published."""

    hello: Hello
    samples: tuple[Sample, ...]
    close: Close | None

    @property
    def steps(self) -> dict[int, Step]:
        return {sample.step.step: sample.step for sample in self.samples}

    @property
    def logged(self) -> list[LoggedScalar]:
        steps = [scalar for step in self.steps.values() for scalar in step.scalars]
        return steps + list(self.close.scalars if self.close is not None else ())

    def curve(self, name: str) -> list[tuple[int, float]]:
        return [(scalar.step, scalar.value) for scalar in self.logged if scalar.name == name]

    def modules(self, step: int) -> list[str]:
        return [attention.module for attention in self.steps[step].attention]


@pytest.fixture
def receive_from(
    shm_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[Path], Received]]:
    """Reads a segment; no daemon is started, outputs would go to ``tmp_path``."""
    monkeypatch.setenv("TRACKSIDE_AUTOSTART", "0")
    monkeypatch.setenv("TRACKSIDE_RING_BYTES", str(1 << 22))
    monkeypatch.setenv("TRACKSIDE_SAVE_DIR", str(tmp_path / "out"))
    monkeypatch.chdir(tmp_path)

    yield _receive
    for path in segment.scan(shm_dir):
        segment.remove(path)


@pytest.fixture
def receive(shm_dir: Path, receive_from: Callable[[Path], Received]) -> Callable[[], Received]:
    """Reads the only segment."""

    def read() -> Received:
        (path,) = segment.scan(shm_dir)
        return receive_from(path)

    return read


def _receive(path: Path) -> Received:
    found = read_segment(path)
    return Received(found.hello, found.samples, found.close)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Keep sums in one order: trainings are compared bit by bit."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
