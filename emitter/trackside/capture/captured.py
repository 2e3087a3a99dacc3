"""What the attention tap hands over: one captured call and its tensors."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from trackside.wire.records import Attention


@dataclass(frozen=True, slots=True)
class CapturedAttention:
    """One attention call of one sample, still on its device."""

    call: Attention
    """Complete metadata."""

    tensors: Mapping[str, torch.Tensor]
    """``query`` and ``key``, or ``logits``; ``mask`` and ``sinks`` where the call has them.

    Shapes as in `trackside.wire.records.Attention`. Detached and with a storage of their own, so
    that nothing the model does later changes them.
    """
