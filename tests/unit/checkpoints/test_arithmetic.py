import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tracksided.checkpoints.arithmetic import BlockSum

TORCH = {
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float32": torch.float32,
    "float64": torch.float64,
}
SUM = BlockSum()


def raw(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().view(torch.uint8).numpy().tobytes()


def block_sum(tensors: list[torch.Tensor], weights: list[float], divisor: float) -> bytes:
    element = str(tensors[0].dtype).removeprefix("torch.")
    SUM.clear()
    for tensor, weight in zip(tensors, weights, strict=True):
        content = raw(tensor)
        SUM.block[: len(content)] = content
        SUM.add(len(content), element, weight)
    assert SUM.is_finite(len(content), element)
    return bytes(SUM.result(len(content), element, divisor))


@pytest.mark.parametrize("element", TORCH)
@given(data=st.data())
@settings(max_examples=40)
def test_a_mean_equals_that_of_float64_rounded_once(element: str, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 5))
    floats = st.floats(-1e4, 1e4, width=32)
    shape = (count, data.draw(st.integers(1, 40)))
    values = data.draw(hnp.arrays(np.float32, shape, elements=floats))
    tensors = [torch.from_numpy(row).to(TORCH[element]) for row in values]

    found = block_sum(tensors, [1.0] * count, float(count))

    total = tensors[0].double().numpy()
    for tensor in tensors[1:]:
        total = total + tensor.double().numpy()
    mean = total / count
    if element == "float16":  # torch rounds twice on the way from float64 to float16
        assert found == mean.astype(np.float16).tobytes()
    else:
        assert found == raw(torch.from_numpy(mean).to(TORCH[element]))


@pytest.mark.parametrize("element", ["float16", "bfloat16"])
def test_every_sixteen_bit_number_comes_back_from_its_own_mean(element: str) -> None:
    every = torch.arange(1 << 16, dtype=torch.int32).to(torch.int16).view(TORCH[element])
    finite = every[torch.isfinite(every)]

    assert block_sum([finite, finite], [1.0, 1.0], 2.0) == raw(finite)


@pytest.mark.parametrize("element", ["float16", "bfloat16"])
def test_halves_round_to_the_even_neighbour(element: str) -> None:
    every = torch.arange(0, 1 << 15, dtype=torch.int16).view(TORCH[element])
    finite = every[torch.isfinite(every)]
    low, high = finite[:-1], finite[1:]

    found = block_sum([low, high], [1.0, 1.0], 2.0)

    bits = np.frombuffer(found, np.uint16)
    assert not (bits & 1).any()


@pytest.mark.parametrize("element", TORCH)
@pytest.mark.parametrize("poison", [float("nan"), float("inf"), float("-inf")])
def test_nan_and_infinity_are_seen(element: str, poison: float) -> None:
    tensor = torch.zeros(9, dtype=TORCH[element])
    tensor[4] = poison
    content = raw(tensor)
    SUM.clear()
    SUM.block[: len(content)] = content
    SUM.add(len(content), element, 0.5)

    assert not SUM.is_finite(len(content), element)


def test_weights_are_applied_in_float64() -> None:
    one, other = torch.tensor([1.0, 3.0]), torch.tensor([1e-9, 5.0])

    found = np.frombuffer(block_sum([one, other], [0.25, 0.75], 1.0), np.float32)

    expected = 0.25 * one.double().numpy() + 0.75 * other.double().numpy()
    assert np.array_equal(found, expected.astype(np.float32))
