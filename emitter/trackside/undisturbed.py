"""A forward of our own in the middle of a training that leaves nothing behind."""

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import torch
from torch import nn

_SHARDED_CLASS = "FullyShardedDataParallel"


@contextlib.contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Run the block without gradients and in eval mode; put modes and generators back after it.

    In eval mode, so that running statistics of normalisation stay as they are. The generators are
    torch's, of the CPU and of the model's devices, Python's and numpy's. Every module gets its own
    mode back: parts may be frozen.
    """
    modes = [(module, module.training) for module in model.modules()]
    devices = {parameter.device for parameter in model.parameters()}
    indices = sorted(device.index or 0 for device in devices if device.type == "cuda")
    python_state = random.getstate()
    numpy_state = np.random.get_state()  # noqa: NPY002 - the global one is what models draw from
    try:
        with torch.random.fork_rng(devices=indices), torch.no_grad():
            for module, _ in modes:
                module.training = False  # not eval(): models override it, and do more in there
            yield
    finally:
        for module, is_training in modes:
            module.training = is_training
        random.setstate(python_state)
        np.random.set_state(numpy_state)  # noqa: NPY002 - see above


def needs_other_ranks(model: nn.Module) -> bool:
    """Whether a forward gathers shards from other ranks, so that none can run one alone."""
    return any(type(module).__name__ == _SHARDED_CLASS for module in model.modules()) or any(
        hasattr(parameter, "placements") for parameter in model.parameters()
    )
