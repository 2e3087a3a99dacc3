"""Staging: order and lifetime of copies, by a device whose copies finish when told."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch

from trackside.errors import DeviceNotSupported
from trackside.staging import NUM_BUFFERS, Staged, Staging


class _Device:
    """Pretends that the meta device is an accelerator; a copy is done when `finish` says so."""

    type = "meta"

    def __init__(self) -> None:
        self.allocated: list[int] = []
        self.pending: list[list[bool]] = []
        self.is_capturing = False

    def can_copy(self) -> bool:
        return not self.is_capturing

    def allocate(self, num_bytes: int) -> torch.Tensor:
        self.allocated.append(num_bytes)
        return torch.zeros(num_bytes, dtype=torch.uint8)

    def copy(self, pairs: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> Callable[[], bool]:
        for host, source in pairs:
            assert host.shape == source.shape
            assert host.dtype == source.dtype
            assert host.is_contiguous()
        flag = [False]
        self.pending.append(flag)
        return lambda: flag[0]

    def finish(self, index: int) -> None:
        self.pending[index][0] = True


def _on_device(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def _stage(staging: Staging, **tensors: torch.Tensor) -> Staged:
    staged = staging.stage(tensors)
    assert staged is not None
    return staged


@pytest.mark.parametrize(
    ("tensor", "dtype", "number"),
    [
        (torch.tensor(1.5), "float32", 1.5),
        (torch.tensor([2.5], dtype=torch.bfloat16), "bfloat16", 2.5),
        (torch.tensor(3, dtype=torch.int64), "int64", 3.0),
        (torch.tensor(1.25, dtype=torch.float64), "float64", 1.25),
        (torch.tensor(0.5, dtype=torch.float16), "float16", 0.5),
        (torch.tensor(7, dtype=torch.int16), "int64", 7.0),
    ],
)
def test_numbers_on_the_cpu_are_ready_at_once(
    tensor: torch.Tensor, dtype: str, number: float
) -> None:
    staged = _stage(Staging(_Device()), x=tensor)

    assert staged.is_ready()
    assert staged.arrays["x"].dtype == dtype
    assert staged.arrays["x"].number() == number


def test_arrays_on_the_cpu_are_viewed_in_row_major_order() -> None:
    tensor = torch.arange(6.0).reshape(2, 3).T

    array = _stage(Staging(_Device()), x=tensor).arrays["x"]

    assert array.shape == (3, 2)
    np.testing.assert_array_equal(
        np.frombuffer(array.raw, np.float32).reshape(3, 2), tensor.numpy()
    )


def test_an_empty_array_has_no_bytes() -> None:
    array = _stage(Staging(_Device()), x=torch.zeros(0, 3)).arrays["x"]

    assert (array.shape, array.raw.nbytes) == ((0, 3), 0)


def test_one_tensor_under_two_names_is_one_array() -> None:
    shared = torch.ones(3)

    arrays = _stage(Staging(_Device()), a=shared, b=shared).arrays

    assert arrays["a"] is arrays["b"]


def test_a_copy_is_ready_when_the_device_says_so() -> None:
    device = _Device()
    staged = _stage(Staging(device), x=_on_device(4, dtype=torch.bfloat16), y=torch.ones(2))

    assert not staged.is_ready()
    device.finish(0)

    assert staged.is_ready()
    assert staged.arrays["x"].shape == (4,)
    np.testing.assert_array_equal(np.frombuffer(staged.arrays["y"].raw, np.float32), [1, 1])


def test_arrays_lie_apart_and_aligned() -> None:
    staged = _stage(Staging(_Device()), x=_on_device(3), y=_on_device(5), z=_on_device())

    starts = [
        np.frombuffer(array.raw, np.uint8).__array_interface__["data"][0]
        for array in staged.arrays.values()
    ]
    assert [start - starts[0] for start in starts] == [0, 64, 128]


def test_a_buffer_serves_again_only_when_it_was_copied_and_read() -> None:
    device = _Device()
    staging = Staging(device)
    first = [_stage(staging, x=_on_device(4)) for _ in range(NUM_BUFFERS)]

    assert staging.stage({"x": _on_device(4)}) is None
    device.finish(0)
    assert staging.stage({"x": _on_device(4)}) is None
    first[0].release()

    assert staging.stage({"x": _on_device(4)}) is not None
    assert len(device.allocated) == NUM_BUFFERS


def test_a_released_copy_that_is_not_done_keeps_its_buffer() -> None:
    device = _Device()
    staging = Staging(device)
    for _ in range(NUM_BUFFERS):
        _stage(staging, x=_on_device(4)).release()

    assert staging.stage({"x": _on_device(4)}) is None


def test_a_larger_record_gets_a_larger_buffer() -> None:
    device = _Device()
    staging = Staging(device)
    for index in range(2 * NUM_BUFFERS):
        _stage(staging, x=_on_device(16 + 16 * (index // NUM_BUFFERS))).release()
        device.finish(index)

    assert device.allocated == [64, 64, 128, 128]


def test_nothing_is_staged_while_a_graph_is_captured() -> None:
    device = _Device()
    device.is_capturing = True

    assert not Staging(device).can_copy()


def test_draining_gives_up_at_its_deadline() -> None:
    device = _Device()
    staging = Staging(device)
    staged = _stage(staging, x=_on_device(4))

    assert not staging.drain(staged, 0.0)
    device.finish(0)
    assert staging.drain(staged, 0.0)


def test_tensors_of_a_device_that_is_not_known_are_refused_by_its_name() -> None:
    tensors = {"x": _on_device(3), "y": torch.ones(2)}

    with pytest.raises(DeviceNotSupported, match="tensors are on meta; only those on CPU and cuda"):
        Staging().stage(tensors)
