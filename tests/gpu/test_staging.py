"""Staging with a real CUDA device."""

import time

import numpy as np
import pytest
import torch

from trackside.staging import Staged, Staging

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA"),
]

DEADLINE_S = 30.0


def _wait(staged: Staged) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not staged.is_ready():
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.int64])
def test_what_arrives_is_what_was_there(dtype: torch.dtype) -> None:
    staging = Staging()
    source = torch.randn(1000, 33, device="cuda").mul(100).to(dtype)
    expected = source.cpu().view(torch.uint8).numpy().ravel()

    staged = staging.stage({"x": source, "n": torch.tensor(2.5, device="cuda")})
    assert staged is not None
    _wait(staged)

    found = np.frombuffer(staged.arrays["x"].raw, np.uint8)
    np.testing.assert_array_equal(found, expected)
    assert staged.arrays["x"].shape == (1000, 33)
    assert staged.arrays["n"].number() == 2.5


def test_a_freed_source_is_still_copied_right() -> None:
    staging = Staging()
    for round_number in range(20):
        source = torch.full((1 << 20,), float(round_number), device="cuda")
        staged = staging.stage({"x": source})
        assert staged is not None
        del source
        torch.full((1 << 20,), -1.0, device="cuda")  # would take the freed memory
        _wait(staged)
        found = np.frombuffer(staged.arrays["x"].raw, np.float32)
        assert (found == round_number).all()
        staged.release()


def test_staging_does_not_wait_for_the_device() -> None:
    staging = Staging()
    warm = staging.stage({"x": torch.zeros(16, device="cuda")})
    assert warm is not None
    _wait(warm)
    warm.release()
    result = torch.zeros(16, device="cuda")
    torch.cuda._sleep(200_000_000)  # about 0.1 s of device time

    staged = staging.stage({"x": result})

    assert staged is not None
    assert not staged.is_ready()
    _wait(staged)


def test_nothing_is_asked_while_a_graph_is_captured() -> None:
    staging = Staging()
    static = torch.zeros(4, device="cuda")
    graph = torch.cuda.CUDAGraph()

    with torch.cuda.graph(graph):
        static.add_(1)
        can_copy = staging.can_copy()

    assert not can_copy
    assert staging.can_copy()
