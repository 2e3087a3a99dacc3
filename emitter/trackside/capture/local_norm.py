"""The norm of one rank's own gradient, before the ranks are averaged."""

import functools
from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch

from trackside.capture.gradients import total_norm
from trackside.capture.module_hooks import unhook
from trackside.guard import Guard

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle


class LocalNorm:
    """Hooks the leaves for one step; a leaf's hook runs before DDP's all-reduce.

    Under accumulation with ``no_sync`` the gradient so far is this rank's own and is added. A
    rank that averages after every micro-batch has no such gradient: the last micro-batch then
    counts too much.
    """

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._handles: list[RemovableHandle] = []
        self._norms: dict[int, torch.Tensor] = {}

    def arm(self, parameters: Iterable[torch.Tensor]) -> None:
        """Listen until `take`."""
        self.disarm()
        for index, parameter in enumerate(parameters):
            hook = functools.partial(self._on_gradient, index, parameter)
            self._handles.append(parameter.register_hook(hook))  # type: ignore[no-untyped-call]  # torch's

    def disarm(self) -> None:
        """Stop listening and forget."""
        unhook(self._handles)
        self._norms = {}

    def take(self) -> torch.Tensor | None:
        """Stop listening; return the norm, 0-d, or None where no gradient came by."""
        norms = list(self._norms.values())
        self.disarm()
        return total_norm(norms) if norms else None

    def _on_gradient(self, index: int, parameter: torch.Tensor, gradient: torch.Tensor) -> None:
        self._guard.run("local gradient norm", self._note, index, parameter, gradient)

    @torch.no_grad()
    def _note(self, index: int, parameter: torch.Tensor, gradient: torch.Tensor) -> None:
        if gradient.layout is not torch.strided or gradient.is_complex():
            return
        so_far = parameter.grad
        whole = gradient if so_far is None else gradient + so_far
        self._norms[index] = torch.linalg.vector_norm(whole.detach(), dtype=_wide(whole.dtype))


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32
