"""The norm of one rank's own gradient, before the ranks are averaged."""

import functools
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch.utils.hooks import unserializable_hook

from trackside.capture.gradients import is_readable, is_sharded, local, total_norm
from trackside.capture.module_hooks import Removable, unhook
from trackside.guard import Guard


@dataclass(frozen=True, slots=True)
class OwnNorm:
    """What one rank's gradient was, and whether it was its own."""

    norm: torch.Tensor
    """0-d: L2 norm of the gradient before it was averaged for the last time."""

    drift: torch.Tensor | None
    """0-d: by how much of itself a parameter's norm changed between two micro-batches, at most.
    0 where they are accumulated; more where ranks are averaged after each. None for a single one.
    """


class LocalNorm:
    """Hooks the leaves for one step; a leaf's hook runs before DDP's all-reduce.

    Under accumulation with ``no_sync`` the gradient so far is this rank's own and is added. A
    rank that averages after every micro-batch has no such gradient: `OwnNorm.drift` tells. Nor
    has one that holds parts of it (tensor parallelism): to sum them up would be a collective.
    """

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._handles: list[Removable] = []
        self._norms: dict[int, torch.Tensor] = {}
        self._drifts: list[torch.Tensor] = []
        self._is_incomplete = False

    def arm(self, parameters: Iterable[torch.Tensor]) -> None:
        """Listen until `take`."""
        self.disarm()
        for index, parameter in enumerate(parameters):
            hook = functools.partial(self._on_gradient, index, parameter)
            unserializable_hook(hook)  # type: ignore[no-untyped-call]  # torch's; it does not warn then
            self._handles.append(parameter.register_hook(hook))  # type: ignore[no-untyped-call]  # torch's

    def disarm(self) -> None:
        """Stop listening and forget."""
        unhook(self._handles)
        self._norms, self._drifts, self._is_incomplete = {}, [], False

    def take(self) -> OwnNorm | None:
        """Stop listening; return the norm, or None where nothing, or not all of it, came by."""
        norms, drifts = list(self._norms.values()), self._drifts
        is_known = bool(norms) and not self._is_incomplete
        self.disarm()
        if not is_known:
            return None
        # NaN: the gradient is, or nothing was there and nothing came.
        drift = torch.stack(drifts).nan_to_num(0.0).amax() if drifts else None
        return OwnNorm(total_norm(norms), drift)

    def _on_gradient(self, index: int, parameter: torch.Tensor, gradient: torch.Tensor) -> None:
        self._guard.run("local gradient norm", self._note, index, parameter, gradient)

    @torch.no_grad()
    def _note(self, index: int, parameter: torch.Tensor, gradient: torch.Tensor) -> None:
        so_far, before = parameter.grad, self._norms.get(index)
        is_in_parts = is_sharded(gradient) or (so_far is not None and is_sharded(so_far))
        if is_in_parts or not is_readable(gradient):
            self._is_incomplete = True
            return
        gradient, so_far = local(gradient), None if so_far is None else local(so_far)
        if so_far is not None and before is not None:
            self._drifts.append(((_norm(so_far) - before).abs() / before).float())
        self._norms[index] = _norm(gradient if so_far is None else gradient + so_far)


def _norm(gradient: torch.Tensor) -> torch.Tensor:
    norm: torch.Tensor = torch.linalg.vector_norm(gradient, dtype=_wide(gradient.dtype))
    return norm


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32
