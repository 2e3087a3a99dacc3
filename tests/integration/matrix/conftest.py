"""A session around a training step, and what it put into the ring."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import model_families as families
import numpy as np
import pytest
import torch
import transformers

import trackside
from trackside.wire import segment
from trackside.wire.records import RecordKind, Step, decode
from trackside.wire.ring import RingReader
from tracksided.samples import AttentionSample, GradientSample, build_sample

Train = Callable[..., list[torch.Tensor]]
Watched = Callable[..., tuple[list[torch.Tensor], tuple[AttentionSample, ...]]]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every test here trains real models; torch and transformers warn of their own ways."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.integration)


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    level = transformers.utils.logging.get_verbosity()
    transformers.utils.logging.set_verbosity(logging.ERROR)
    yield
    transformers.utils.logging.set_verbosity(level)


@pytest.fixture
def train() -> Train:
    """Train for some steps; the losses."""

    def run(
        model: Any,
        optimizer: torch.optim.Optimizer,
        inputs: families.Inputs,
        *,
        num_steps: int,
        dtype: torch.dtype = torch.float32,
    ) -> list[torch.Tensor]:
        losses: list[torch.Tensor] = []
        for _ in range(num_steps):
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype=dtype, enabled=dtype is not torch.float32):
                loss = model(**inputs).loss
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        return losses

    return run


@pytest.fixture
def watched(shm_dir: Path, train: Train, caplog: pytest.LogCaptureFixture) -> Watched:
    """Train under a session that samples every ``every`` steps; the losses and the last maps.

    Nothing may have been logged: no error of a hook, no layer that was not captured, no drop.
    """

    def run(
        model: Any, optimizer: torch.optim.Optimizer, inputs: families.Inputs, **options: Any
    ) -> tuple[list[torch.Tensor], tuple[AttentionSample, ...]]:
        session = trackside.attach(
            model,
            optimizer,
            every=options.pop("every", 1),
            layers=None,
            sample=families.PADDED,
            ring_bytes=1 << 23,
            autostart=False,
        )
        losses = train(model, optimizer, inputs, **options)
        session.close()
        assert [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING] == []
        return losses, _last_attention(shm_dir)

    return run


def _last_attention(shm_dir: Path) -> tuple[AttentionSample, ...]:
    """Empty the only segment; what its last step record holds."""
    (path,) = segment.scan(shm_dir)
    reader = RingReader.open(path, read_only=True)
    attention: tuple[AttentionSample, ...] = ()
    gradients: GradientSample | None = None
    hello = decode(trackside.wire.records.Hello, reader.hello())
    while (record := reader.poll()) is not None:
        if record.kind == RecordKind.STEP:
            payload = memoryview(np.frombuffer(record.payload, np.uint8).copy())
            sample = build_sample(hello, decode(Step, record.metadata), payload)
            attention, gradients = sample.attention, sample.gradients
    assert reader.torn_records == 0
    assert gradients is not None
    reader.close()
    segment.remove(path)
    return attention
