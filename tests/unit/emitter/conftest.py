"""Fixtures of the emitter's tests: what a daemon would read, quiet attach and monitors."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from received import Received, read_segment

from trackside.session import Session, attach
from trackside.wire import segment


@pytest.fixture
def receive(shm_dir: Path) -> Callable[[], Received]:
    """Reads the only segment in shared memory, and removes it if its writer has ended."""

    def read() -> Received:
        (path,) = segment.scan(shm_dir)
        received = read_segment(path, consume=True)
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


@pytest.fixture
def quiet_monitors(shm_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Classic monitors with a small ring and no daemon; what they leave is removed."""
    monkeypatch.setenv("TRACKSIDE_AUTOSTART", "0")
    monkeypatch.setenv("TRACKSIDE_RING_BYTES", str(1 << 20))
    yield
    for path in segment.scan(shm_dir):
        segment.remove(path)
