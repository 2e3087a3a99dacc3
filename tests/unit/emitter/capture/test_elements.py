"""Sampled elements of a tensor: few, evenly spaced, and from everywhere in it."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trackside.capture.elements import num_elements_sampled, sampled_elements
from trackside.capture.gradients import MAX_SAMPLED

# Layers of usual models: GPT-2, Llama, ResNet, a stack of experts, an embedding.
SHAPES = [
    (1024, 1024),
    (2304, 768),
    (3072, 768),
    (4096, 1024),
    (1000, 30),
    (512, 256, 3, 3),
    (8, 512, 256),
    (30_000, 64),
]


def _places(shape: tuple[int, ...]) -> torch.Tensor:
    """Return the index of each sampled element in every dimension, [sampled, dimensions]."""
    numbers = torch.arange(math.prod(shape)).view(shape)
    return torch.stack(torch.unravel_index(sampled_elements(numbers, MAX_SAMPLED), shape), -1)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_dimension_is_walked_through(shape: tuple[int, ...]) -> None:
    places = _places(shape)

    assert MAX_SAMPLED / 2 <= len(places) <= MAX_SAMPLED
    for size, indices in zip(shape, places.T, strict=True):
        counts = indices.bincount(minlength=size)
        assert (counts > 0).sum() >= 0.45 * min(size, len(places))  # few see the same index twice
        assert counts.max() <= 4 * max(1, len(places) / size)


@pytest.mark.parametrize("size", [512, 1024, 2048])
def test_a_diagonal_weighs_no_more_than_it_is_long(size: int) -> None:
    row, column = _places((size, size)).T

    assert (row == column).sum() <= 0.01 * len(row)


@given(st.lists(st.integers(1, 60), min_size=1, max_size=3), st.integers(1, 200))
def test_never_more_than_asked_for_and_all_where_that_is_enough(
    shape: list[int], most: int
) -> None:
    numbers = torch.arange(float(math.prod(shape))).view(shape)

    found = sampled_elements(numbers, most)

    assert len(found) == num_elements_sampled(numbers, most) <= most
    assert len(found.diff().unique()) <= 1
    if numbers.numel() <= most:
        assert torch.equal(found, numbers.flatten())


def test_the_layout_in_memory_does_not_matter() -> None:
    numbers = torch.arange(3000.0).view(50, 60)

    assert torch.equal(sampled_elements(numbers, 100), sampled_elements(numbers.T.clone().T, 100))


def test_one_dead_input_is_no_dead_layer() -> None:
    """With a stride of a whole row all sampled elements would be those of the first input."""
    gradient = torch.ones(1024, 1024)
    gradient[:, 0] = 0

    zeros = (sampled_elements(gradient, MAX_SAMPLED) == 0).double().mean()

    assert zeros <= 0.01  # 1 of 1024
