"""Tensors of every dtype that is averaged or kept, and their mean in double precision."""

import numpy as np
import torch

AVERAGED = (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64)
KEPT = (torch.bool, torch.uint8, torch.int32, torch.int64)


def random_tensor(seed: int, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    if dtype.is_floating_point or dtype.is_complex:
        return torch.randn(shape, generator=generator, dtype=torch.float32).to(dtype)
    return torch.randint(0, 2, shape, generator=generator).to(dtype)


def mean(tensors: list[torch.Tensor]) -> torch.Tensor:
    """The mean by numpy in double precision, rounded once to the tensors' dtype."""
    wide = torch.complex128 if tensors[0].is_complex() else torch.float64
    total = tensors[0].to(wide).numpy()
    for tensor in tensors[1:]:
        total = total + tensor.to(wide).numpy()
    return torch.from_numpy(np.asarray(total / len(tensors))).to(tensors[0].dtype)
