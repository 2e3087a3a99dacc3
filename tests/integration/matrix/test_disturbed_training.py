"""Trainings that break off and go on, evaluate in between, or run for long."""

import gc
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

import trackside
from trackside.session import Session
from trackside.wire import segment
from trackside.wire.records import RecordKind, Step, decode
from trackside.wire.ring import RingReader

WIDTH, HEADS = 8, 2
NUM_STEPS = 250
WARM_UP_ROUNDS = 8  # Python 3.13 goes on filling its own caches for some 1000 steps


class _Fails(torch.autograd.Function):
    """Raises on the way back."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, hidden: torch.Tensor) -> torch.Tensor:
        del ctx
        return hidden.clone()

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *_: torch.Tensor) -> torch.Tensor:
        del ctx
        raise _Fails.error

    error: BaseException = RuntimeError()


class _Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(WIDTH, 3 * WIDTH) for _ in range(2))
        self.fault: tuple[str, BaseException] | None = None

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            parts = layer(hidden).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
            mixed = functional.scaled_dot_product_attention(*parts, is_causal=True)
            hidden = hidden + mixed.transpose(1, 2).flatten(2)
            if self.fault is not None and self.fault[0] == "forward":
                raise self.fault[1]
        return hidden if self.fault is None else _Fails.apply(hidden)


@pytest.fixture
def parts(shm_dir: Path) -> Iterator[tuple[_Model, torch.optim.Optimizer, Session]]:
    """A model, its optimizer and a session that samples every step; nothing may stay behind."""
    del shm_dir
    torch.manual_seed(0)
    model = _Model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    session = trackside.attach(
        model, optimizer, every=1, layers=None, autostart=False, ring_bytes=1 << 18
    )
    yield model, optimizer, session
    session.close()
    assert torch._C._len_torch_function_stack() == 0
    assert not model._forward_hooks
    assert not model._forward_pre_hooks
    assert not optimizer._optimizer_step_post_hooks


def _step(model: nn.Module, optimizer: torch.optim.Optimizer, rows: int = 5) -> None:
    optimizer.zero_grad()
    model(torch.randn(2, rows, WIDTH)).square().mean().backward()
    optimizer.step()


def _published(shm_dir: Path) -> list[tuple[int, list[tuple[int, int]]]]:
    """Empty the ring: each step with the layer and the number of queries of every map."""
    (path,) = segment.scan(shm_dir)
    reader = RingReader.open(path, read_only=True)
    found = []
    while (record := reader.poll()) is not None:
        if record.kind == RecordKind.STEP:
            step = decode(Step, record.metadata)
            found.append((step.step, [(call.layer, call.num_queries) for call in step.attention]))
    reader.close()
    segment.remove(path)
    return found


FAULTS: dict[str, BaseException] = {
    "error": ValueError("mine"),
    "out of memory": torch.OutOfMemoryError("simulated"),
    "interrupt": KeyboardInterrupt(),
}


@pytest.mark.parametrize("kind", FAULTS)
@pytest.mark.parametrize("where", ["forward", "backward"])
def test_a_step_that_breaks_off_is_left_out_and_the_next_one_is_whole(
    parts: tuple[_Model, torch.optim.Optimizer, Session], shm_dir: Path, where: str, kind: str
) -> None:
    model, optimizer, session = parts
    _step(model, optimizer)

    model.fault = (where, FAULTS[kind])
    _Fails.error = FAULTS[kind]
    with pytest.raises(type(FAULTS[kind])):
        _step(model, optimizer, rows=4)
    model.fault = None
    if kind != "interrupt":  # for that torch calls no hooks; the next use cleans up
        assert torch._C._len_torch_function_stack() == 0
    for _ in range(2):
        _step(model, optimizer)

    session.close()
    whole = [(0, 5), (1, 5)]
    broken = {
        ("forward", "error"): whole,
        ("forward", "out of memory"): whole,
        ("forward", "interrupt"): [],
    }
    # A forward that went well is the one that is captured, whatever becomes of its backward.
    second = broken.get((where, kind), [(0, 4), (1, 4)])
    assert _published(shm_dir) == [(1, whole), (2, second), (3, whole)]


def test_evaluation_in_the_middle_of_a_step_is_not_captured(
    parts: tuple[_Model, torch.optim.Optimizer, Session], shm_dir: Path
) -> None:
    model, optimizer, session = parts

    for _ in range(2):
        model.eval()
        with torch.no_grad():
            model(torch.randn(2, 7, WIDTH))
        model.train()
        _step(model, optimizer)

    session.close()
    assert _published(shm_dir) == [(1, [(0, 5), (1, 5)]), (2, [(0, 5), (1, 5)])]


def test_a_loop_in_a_generator_that_is_left_and_collected(
    parts: tuple[_Model, torch.optim.Optimizer, Session], shm_dir: Path
) -> None:
    model, optimizer, session = parts

    def epochs() -> Iterator[torch.Tensor]:
        while True:
            optimizer.zero_grad()
            loss = model(torch.randn(2, 5, WIDTH)).square().mean()
            yield loss
            loss.backward()
            optimizer.step()

    loop = epochs()
    for _ in range(3):
        next(loop)
        assert torch._C._len_torch_function_stack() == 0
    loop.close()  # between a forward and its backward

    session.close()
    assert [step for step, _ in _published(shm_dir)] == [1, 2]


@pytest.mark.parametrize("is_read", [True, False])
def test_memory_is_flat(shm_dir: Path, *, is_read: bool) -> None:
    """With a reader, and with a ring that is full and drops; every step is sampled."""
    model = _Model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    session = trackside.attach(model, optimizer, every=1, autostart=False, ring_bytes=1 << 16)
    (path,) = segment.scan(shm_dir)
    reader = RingReader.open(path)

    def train(num_steps: int) -> tuple[int, int]:
        for _ in range(num_steps):
            _step(model, optimizer)
            while is_read and (record := reader.poll()) is not None:
                reader.commit(record.end)
        gc.collect()
        num_tensors = sum(issubclass(type(one), torch.Tensor) for one in gc.get_objects())
        return num_tensors, sys.getallocatedblocks()

    train(100)
    tensors_after, blocks_after = train(NUM_STEPS)
    for _ in range(WARM_UP_ROUNDS):
        tensors_before, blocks_before = tensors_after, blocks_after
        tensors_after, blocks_after = train(NUM_STEPS)
        if blocks_after - blocks_before < NUM_STEPS:
            break
    session.close()
    reader.close()
    segment.remove(path)

    assert tensors_after == tensors_before
    assert blocks_after - blocks_before < NUM_STEPS  # less than one Python object of each step
