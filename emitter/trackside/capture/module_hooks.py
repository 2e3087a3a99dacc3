"""Hooks around a module's forward that do not follow the module into a copy or a file."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle

_Call = Callable[[nn.Module], None]


def hook_forward(module: nn.Module, before: _Call, after: _Call) -> "list[RemovableHandle]":
    """Call ``before`` last in front of a forward, ``after`` first behind it, even if it raises.

    A copy of the module (an average of its weights, say) or a saved one has hooks that do nothing.
    """
    return [
        module.register_forward_pre_hook(ModuleHook(before)),
        module.register_forward_hook(ModuleHook(after), prepend=True, always_call=True),
    ]


def unhook(handles: "list[RemovableHandle]") -> None:
    """Remove all hooks, and empty the list."""
    for handle in handles:
        handle.remove()
    handles.clear()


class ModuleHook:
    """A hook of either kind that returns nothing, and does nothing in a copied or saved module."""

    def __init__(self, call: _Call) -> None:
        self._call = call

    def __call__(self, module: nn.Module, *_: object) -> None:
        """Run as a forward pre-hook or a forward hook."""
        self._call(module)

    def __deepcopy__(self, memo: dict[int, object]) -> "ModuleHook":
        return ModuleHook(_do_nothing)

    def __reduce__(self) -> "tuple[type[ModuleHook], tuple[_Call]]":
        return ModuleHook, (_do_nothing,)


def _do_nothing(module: nn.Module) -> None:
    """Stand in for the hook of a module that was copied or saved."""
