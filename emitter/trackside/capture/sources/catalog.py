"""Which function is read by which source. One line per spelling of a call."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch._ops import OperatorBase, OpOverloadPacket
from torch.nn import functional

from trackside.capture.sources.call import Source
from trackside.capture.sources.flex import inspect_flex
from trackside.capture.sources.multihead import inspect_multihead
from trackside.capture.sources.sdpa import inspect_sdpa
from trackside.capture.sources.softmax import inspect_functional_softmax, inspect_softmax

SOURCES: Mapping[Callable[..., Any], Source] = {
    functional.scaled_dot_product_attention: inspect_sdpa,
    functional.multi_head_attention_forward: inspect_multihead,
    functional.softmax: inspect_functional_softmax,
    torch.softmax: inspect_softmax,
    torch.special.softmax: inspect_softmax,
    torch.Tensor.softmax: inspect_softmax,
}
# Operators by name, such as ``namespace::operator``: to import one may load modules that few
# models need.
OPERATOR_SOURCES: Mapping[str, Source] = {
    "flex_attention": inspect_flex,
}


def source_of(func: object) -> Source | None:
    """Return what reads a call of the function, None for one that is not attention."""
    if isinstance(func, OperatorBase):
        return OPERATOR_SOURCES.get(func.name())  # type: ignore[no-untyped-call] # torch's
    if isinstance(func, OpOverloadPacket):
        return OPERATOR_SOURCES.get(func._qualified_op_name)  # noqa: SLF001 - str(func) has dots
    return SOURCES.get(func)  # type: ignore[call-overload, no-any-return] # any function may come
