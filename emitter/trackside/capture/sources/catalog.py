"""Which function is read by which source. One line per spelling of a call."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.nn import functional

from trackside.capture.sources.call import Source
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
