import bisect
import itertools
from fractions import Fraction

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
FRACTION_BITS = {"float16": 10, "bfloat16": 7}
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


def rounded(element: str, values: np.ndarray) -> np.ndarray:
    """Round any float64, as if they were sums of an element, to the bits of 16-bit numbers."""
    if element == "bfloat16":  # its sums are held with even indices first
        filled = np.append(values, np.zeros(values.size % 2))
        values_as_held = np.concatenate([filled[0::2], filled[1::2]])
    else:
        values_as_held = values
    SUM.clear()
    SUM.block[: values_as_held.nbytes] = values_as_held.tobytes()
    SUM.add(values_as_held.nbytes, "float64", 1.0)
    return np.frombuffer(SUM.result(2 * values.size, element, 1.0), np.uint16)


def sixteen_bit_numbers(element: str) -> list[Fraction]:
    """Every number from 0 on by its bits (IEEE 754); infinity as the power of two it stands for."""
    bits = FRACTION_BITS[element]
    bias = (1 << (14 - bits)) - 1
    numbers = []
    for pattern in range((0x7FFF >> bits << bits) + 1):
        exponent, fraction = pattern >> bits, pattern & ((1 << bits) - 1)
        if exponent:
            fraction += 1 << bits
        numbers.append(fraction * Fraction(2) ** (max(exponent, 1) - bias - bits))
    return numbers


NUMBERS = {element: sixteen_bit_numbers(element) for element in FRACTION_BITS}


def nearest(element: str, value: float) -> int:
    """The bits of the nearest number, of two the even one: exact, without floating point."""
    numbers, exact = NUMBERS[element], abs(Fraction(value))
    above = min(bisect.bisect_left(numbers, exact), len(numbers) - 1)
    below = max(above - 1, 0)
    to_below, to_above = exact - numbers[below], numbers[above] - exact
    is_up = to_above < to_below or (to_above == to_below and above % 2 == 0)
    return (above if is_up else below) | (0x8000 if np.signbit(value) else 0)


def near_ties(element: str) -> st.SearchStrategy[float]:
    """Numbers half way between two of sixteen bits, and the float64 around them."""
    largest = len(NUMBERS[element]) - 2

    def near(at: int, ulps: int, sign: float) -> float:
        middle = float((NUMBERS[element][at] + NUMBERS[element][at + 1]) / 2)
        return sign * float((np.float64(middle).view(np.int64) + ulps).view(np.float64))

    offsets = [sign * shift for shift in (0, 1, 2, 1 << 28, 1 << 29) for sign in (1, -1)]
    return st.builds(
        near, st.integers(0, largest), st.sampled_from(offsets), st.sampled_from([1.0, -1.0])
    )


@pytest.mark.parametrize("element", FRACTION_BITS)
@given(data=st.data())
@settings(max_examples=60)
def test_a_sum_is_rounded_once_to_the_nearest_of_sixteen_bits(
    element: str, data: st.DataObject
) -> None:
    wide = st.floats(-1e40, 1e40) | st.just(-0.0)
    tiny = st.floats(-1e-37, 1e-37)
    ties = near_ties(element)
    values = np.array(data.draw(st.lists(wide | tiny | ties, min_size=1, max_size=30)))

    found = rounded(element, values)

    assert found.tolist() == [nearest(element, value) for value in values]


@pytest.mark.parametrize("element", FRACTION_BITS)
def test_all_halves_and_what_is_next_to_them_are_rounded_once(element: str) -> None:
    numbers = [float(number) for number in NUMBERS[element]]
    middles = np.array([(low + high) / 2 for low, high in itertools.pairwise(numbers)])
    even = np.arange(middles.size) + np.arange(middles.size) % 2
    expected_at = {-1: np.arange(middles.size), 0: even, 1: np.arange(middles.size) + 1}

    for ulps, expected in expected_at.items():
        values = (middles.view(np.int64) + ulps).view(np.float64)

        found = rounded(element, values)

        assert np.array_equal(found, expected)


def test_a_mean_of_bfloat16_just_above_half_way_is_rounded_up() -> None:
    values = [2.0, 1 + 2**-7, 1 + 2**-7, 2.0**-30]  # their mean is 1 + 2**-8 + 2**-32
    tensors = [torch.tensor([value], dtype=torch.bfloat16) for value in values]

    found = block_sum(tensors, [1.0] * 4, 4.0)

    assert found == raw(torch.tensor([1 + 2**-7], dtype=torch.bfloat16))


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
    if element in FRACTION_BITS:  # torch rounds twice on the way from float64
        assert np.frombuffer(found, np.uint16).tolist() == [nearest(element, x) for x in mean]
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
