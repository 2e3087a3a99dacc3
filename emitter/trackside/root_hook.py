"""Hooks on the root module that stay behind when the module is copied or saved."""

from collections.abc import Callable

import torch
from torch import nn


class RootHook:
    """A forward pre-hook of the root; nothing for a compiled, copied or saved module."""

    def __init__(self, call: Callable[[], None]) -> None:
        self._call = call

    def __call__(self, module: nn.Module, args: object) -> None:
        """Run before a forward that is not being compiled."""
        del module, args
        if not torch.compiler.is_compiling():
            self._call()

    def __deepcopy__(self, memo: dict[int, object]) -> "RootHook":
        return RootHook(_do_nothing)

    def __reduce__(self) -> tuple[type["RootHook"], tuple[Callable[[], None]]]:
        return RootHook, (_do_nothing,)


def unwrap(model: nn.Module) -> nn.Module:
    """Return the model inside of DDP, FSDP and `torch.compile`, whose forward they all call."""
    while True:
        inner = getattr(model, "_orig_mod", None)
        if inner is None and type(model).__name__ in _WRAPPERS:
            inner = getattr(model, "module", None)
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def has_compiled_parts(model: nn.Module) -> bool:
    """Whether `torch.compile` was applied to a module in the model, in place or around it."""
    return any(
        getattr(module, "_compiled_call_impl", None) is not None or hasattr(module, "_orig_mod")
        for module in model.modules()
    )


_WRAPPERS = frozenset({"DistributedDataParallel", "DataParallel", "FullyShardedDataParallel"})


def _do_nothing() -> None:
    """Stand in for the hook of a module that was copied or saved."""
