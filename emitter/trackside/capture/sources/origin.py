"""Where the numbers that softmax takes come from: queries and keys, or something else.

A softmax over four dimensions need not be attention: gates, mixing weights, feature maps and
sampling points have as many. Autograd's graph tells them apart without reading a number.
"""

import math
from collections.abc import Sequence
from typing import Protocol, cast

import torch

_LINEAR = frozenset({"AddmmBackward0", "MmBackward0", "LinearBackward0", "ConvolutionBackward0"})
# What scales, masks, caps or rearranges numbers, and what parameters are.
_PASSED_THROUGH = frozenset(
    {
        *("Add", "Sub", "Rsub", "Mul", "Div", "Neg", "Tanh", "Clamp", "MaskedFill", "Where"),
        *("View", "UnsafeView", "ReshapeAlias", "Permute", "Transpose", "T", "Unsqueeze"),
        *("Squeeze", "Expand", "Slice", "Select", "Split", "SplitWithSizes", "Unbind"),
        *("Clone", "ToCopy", "Cat", "Alias"),
    }
)
_LEAF = "torch::autograd::AccumulateGrad"
_MAX_NODES = 64  # a product of queries and keys is about ten away from its softmax


class _Output(Protocol):
    shape: Sequence[int]


def comes_from_linear_layers(logits: torch.Tensor) -> bool:
    """Say whether [batch, heads, queries, keys] are known not to pair queries with keys.

    True where all of them come straight from linear layers and convolutions, and none of these
    gives one number for each pair (additive attention) or mixes heads (talking heads). False
    where a product is found, and where the graph does not tell: without gradients, or behind
    anything that is not listed above.

    Args:
        logits: what softmax is called on.
    """
    waiting: list[torch.autograd.graph.Node | None] = [logits.grad_fn]
    seen: set[torch.autograd.graph.Node] = set()
    has_linear = False
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:  # None is a constant: a mask, a frozen parameter
            continue
        seen.add(node)
        name = node.name()
        if name in _LINEAR:
            if _scores_pairs(node, logits):
                return False
            has_linear = True
        elif name.rstrip("0123456789").removesuffix("Backward") in _PASSED_THROUGH:
            waiting += [before for before, _ in node.next_functions]
        elif name != _LEAF:  # a product, or nothing we know
            return False
        if len(seen) >= _MAX_NODES:
            return False
    return has_linear


def _scores_pairs(node: torch.autograd.graph.Node, logits: torch.Tensor) -> bool:
    """Whether a linear layer gives as many numbers as there are logits, one a pair or head."""
    outputs = cast("tuple[_Output, ...]", getattr(node, "_input_metadata", ()))
    if not outputs:  # another version of torch
        return True
    shape = tuple(outputs[0].shape)
    if math.prod(shape) != logits.numel():
        return False
    return shape == logits.shape or shape[-1] in {1, logits.shape[1]}
