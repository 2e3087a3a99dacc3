"""The root module: what it is inside of wrappers, and a hook in front of its forward."""

from collections.abc import Callable

import torch
from torch import nn

from trackside.capture.held import UnheldModule
from trackside.capture.module_hooks import ModuleHook, hook_before, takes_hooks


class RootHook:
    """A hook in front of the root's forward, there only while somebody needs it."""

    _root = UnheldModule()

    def __init__(self, root: nn.Module, call: Callable[[], None]) -> None:
        """Prepare; ``call`` runs in front of each forward that is not being compiled."""
        self._root = root
        self._call = call
        self._hook: ModuleHook | None = None

    def install(self) -> None:
        """Hook the root, if it takes hooks; twice is fine."""
        if self._hook is None and takes_hooks(self._root):
            self._hook = hook_before(self._root, self._run)

    def remove(self) -> None:
        """Unhook it; twice is fine."""
        if self._hook is not None:
            self._hook.remove()
            self._hook = None

    def _run(self, module: nn.Module) -> None:
        del module
        if not torch.compiler.is_compiling():
            self._call()


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
