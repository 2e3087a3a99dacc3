"""What every source of attention says about a call it recognised."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from trackside.capture.rows import Rows

# What numpy on the other side can read: see `trackside.wire.records.DTYPE_BYTES`.
FLOAT_DTYPES = frozenset({torch.float16, torch.bfloat16, torch.float32, torch.float64})


@dataclass(frozen=True, slots=True)
class Kept:
    """The part of a call that is kept."""

    sample: int
    """Index in the batch."""

    heads: tuple[int, ...]
    """Indices of query heads, each once."""

    key_heads: tuple[int, ...]
    """Distinct key heads that ``heads`` look at, ascending."""

    rows: Rows
    """Which query rows."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """An attention call that cannot be captured."""

    reason: str
    """For the user, in words that are equal for equal causes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionCall:
    """One attention call, before anything of it is copied."""

    batch_size: int
    """Samples in the batch."""

    num_heads: int
    """Query heads."""

    num_key_heads: int
    """Divides ``num_heads``; query head h looks at key head h // (num_heads / num_key_heads)."""

    num_queries: int
    """Rows of the map."""

    num_keys: int
    """Columns of the map."""

    scale: float
    """Factor of query times key; 1 where logits are read."""

    is_causal: bool
    """Whether key k is hidden from query row q where k > q, beside any mask."""

    is_causal_hint: bool
    """The caller says that the attention is causal, by a flag or by the shape of its mask."""

    is_hand_written: bool
    """Only a softmax was seen: it has no flag to tell causal from bidirectional."""

    shares_sequence: bool | None
    """Whether keys and queries come from one tensor; None where that cannot be seen."""

    read: Callable[[Kept], Mapping[str, torch.Tensor] | Refusal]
    """Cut out the kept part: the tensors of `trackside.wire.records.Attention`, maybe views."""

    masks: tuple[torch.Tensor, ...] = ()
    """What the mask is made of, as it was passed; none where it is made from something else."""


Inspection = AttentionCall | Refusal | None
"""None is a call that is not attention."""

Source = Callable[[Sequence[object], Mapping[str, object], nn.Module], Inspection]
"""Gets the call's arguments and the module that made it."""


def bind(
    names: Sequence[str], args: Sequence[object], kwargs: Mapping[str, object]
) -> dict[str, object]:
    """Map argument names to what was passed; what was not passed is absent.

    Args:
        names: of the arguments, in order.
        args: passed by position.
        kwargs: passed by name.
    """
    return {**dict(zip(names, args, strict=False)), **kwargs}


def refuse(name: str, *tensors: torch.Tensor) -> Refusal | None:
    """Refuse tensors whose numbers cannot be read as plain strided arrays.

    Args:
        name: of the function that was called.
        tensors: whose numbers are to be read.
    """
    for tensor in tensors:
        if type(tensor) is not torch.Tensor and type(tensor) is not nn.Parameter:
            return Refusal(f"{name} was called on a {type(tensor).__name__}")
        if tensor.is_nested or tensor.layout is not torch.strided:
            return Refusal(f"{name} was called on a nested or sparse tensor")
        if tensor.device.type == "meta":
            return Refusal(f"{name} was called on a tensor without storage (device meta)")
        if tensor.dtype not in FLOAT_DTYPES and tensor.dtype is not torch.bool:
            return Refusal(f"{name} was called on {tensor.dtype}")
    return None


def pick(tensor: torch.Tensor, heads: Sequence[int]) -> torch.Tensor:
    """Take heads out of the first dimension, without an index tensor.

    A dimension of size 1 stands for all heads and stays as it is.

    Args:
        tensor: [heads or 1, ...].
        heads: indices of the first dimension.
    """
    count = tensor.shape[0]
    if count == 1 or tuple(heads) == tuple(range(count)):
        return tensor
    return torch.stack([tensor[head] for head in heads])


def of_sample(tensor: torch.Tensor, sample: int) -> torch.Tensor:
    """Drop the leading batch dimension; one of size 1 stands for every sample.

    Args:
        tensor: [batch or 1, ...].
        sample: index in the batch.
    """
    return tensor[0 if tensor.shape[0] == 1 else sample]


def as_computed(tensor: torch.Tensor) -> torch.Tensor:
    """Round a tensor to what autocast makes of it for the call, where it is on.

    Args:
        tensor: as it was passed.
    """
    device_type = tensor.device.type
    is_cast = tensor.is_floating_point() and tensor.dtype is not torch.float64
    if not is_cast or not torch.is_autocast_enabled(device_type):
        return tensor
    return tensor.to(torch.get_autocast_dtype(device_type))
