"""Parts of a model that must run without a function mode, because they would compute otherwise.

In eval mode and without gradients `torch.nn.MultiheadAttention` and the encoder layers around it
take a fast path, whose results differ in the last bits and at padded positions. A function mode
on the stack switches it off (`torch.overrides.has_torch_function` is then true), and so do hooks
on an encoder layer. A feature extractor that is frozen inside of a model that trains is such a
part.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True, slots=True)
class FrozenPart:
    """The topmost module of a part, and its path."""

    path: str
    module: nn.Module

    @property
    def can_be_hooked(self) -> bool:
        """Whether hooks on the topmost module leave the fast path on."""
        return not isinstance(self.module, nn.TransformerEncoderLayer)


def frozen_parts(root: nn.Module, path: str = "") -> Iterator[FrozenPart]:
    """Yield the topmost modules that are in eval mode, learn nothing and could be fast."""
    if not root.training and _is_frozen(root):
        if any(isinstance(module, nn.MultiheadAttention) for module in root.modules()):
            yield FrozenPart(path, root)
        return
    for name, child in root.named_children():
        yield from frozen_parts(child, f"{path}.{name}" if path else name)


def _is_frozen(module: nn.Module) -> bool:
    return not any(parameter.requires_grad for parameter in module.parameters())
