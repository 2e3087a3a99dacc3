"""Which elements of a tensor stand for all of them: every so many, in row-major order."""

import functools
import math

import torch

_APART = 16  # a stride is a 16th longer than need be: else that of a square is its diagonal
_MAX_TRIED = 64  # among so many in a row one has no factor in common with any row below 1e9


def num_elements_sampled(tensor: torch.Tensor, most: int) -> int:
    """Return how many elements `sampled_elements` takes, from 1 to ``most``.

    Args:
        tensor: not empty.
        most: at least 1.
    """
    return -(-tensor.numel() // _stride(tensor.shape, most))


def sampled_elements(tensor: torch.Tensor, most: int) -> torch.Tensor:
    """Return the same elements of every tensor of a shape, [sampled]; a view where it can be.

    All of them where there are no more than ``most``. Else they lie in all rows and columns
    alike: a stride that is a multiple of a row's length, as it easily becomes where sizes are
    powers of two, would look at a single input of a layer.

    Args:
        tensor: not empty.
        most: at least 1.
    """
    stride = _stride(tensor.shape, most)
    if tensor.is_contiguous():  # one call, where reshaping and slicing are two
        return tensor.as_strided((-(-tensor.numel() // stride),), (stride,))
    return tensor.reshape(-1)[::stride]


@functools.lru_cache(maxsize=4096)
def _stride(shape: torch.Size, most: int) -> int:
    """Return the stride that has the smallest factor in common with a row."""
    least = -(-shape.numel() // most)
    row = math.prod(shape[1:])
    if least == 1 or row == 1:
        return least
    first = least + least // _APART
    tried = range(first, first + min(first, _MAX_TRIED))
    return min(tried, key=lambda stride: math.gcd(stride, row))
