"""Hooks around a module's forward that are in no copy of the module, no file and no TorchScript.

A hook stands in the module's own tables, so whoever takes the module apart finds it there: to
compile it (TorchScript takes no hook that it cannot compile), to copy it, to save it whole.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator, MutableMapping
from typing import TYPE_CHECKING, Protocol, cast

import torch
from torch import nn

from trackside.capture.held import UnheldModule
from trackside.hooks import Function, WrappedFunction

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle

_Call = Callable[[nn.Module], None]
_Table = MutableMapping[int, object]
_TABLES = ("_forward_pre_hooks", "_forward_hooks", "_forward_hooks_always_called")


class Removable(Protocol):
    """What `unhook` takes: torch's handles and hooks of ours."""

    def remove(self) -> None:
        """Remove the hook."""


def takes_hooks(module: nn.Module) -> bool:
    """Whether hooks can be put on a module: TorchScript takes none that it cannot compile."""
    return not isinstance(module, torch.jit.ScriptModule)


def hook_before(module: nn.Module, call: _Call) -> "ModuleHook":
    """Call ``call`` last in front of a forward."""
    hook = ModuleHook(module, call)
    hook.hold(module.register_forward_pre_hook(hook))
    return hook


def hook_forward(module: nn.Module, before: _Call, after: _Call) -> "list[Removable]":
    """Call ``before`` last in front of a forward, ``after`` first behind it, even if it raises."""
    behind = ModuleHook(module, after)
    behind.hold(module.register_forward_hook(behind, prepend=True, always_call=True))
    return [hook_before(module, before), behind]


def unhook(handles: "list[Removable]") -> None:
    """Remove all hooks, and empty the list."""
    for handle in handles:
        handle.remove()
    handles.clear()


class ModuleHook:
    """A hook of either kind that returns nothing.

    What comes out of a copy or a file in its place does nothing, and needs no trackside.
    """

    module = UnheldModule()

    def __init__(self, module: nn.Module, call: _Call) -> None:
        self.module = module
        self._call = call
        self._handle: RemovableHandle | None = None

    @property
    def key(self) -> int:
        """Where it stands in the module's tables."""
        return self._handle.id if self._handle is not None else -1

    def hold(self, handle: "RemovableHandle") -> None:
        """Keep what removes it."""
        self._handle = handle
        _hidden.add(self)

    def remove(self) -> None:
        """Take it off the module; twice is fine."""
        if self._handle is not None:
            _hidden.discard(self)
            self._handle.remove()
            self._handle = None

    def __call__(self, module: nn.Module, *_: object) -> None:
        """Run as a forward pre-hook or a forward hook."""
        self._call(module)

    def __deepcopy__(self, memo: dict[int, object]) -> object:
        # The table that is being copied gets something in this place, whatever is returned. It is
        # taken out when the copy is complete: then the memo goes, and the broom with it.
        broom = cast("_Broom", memo.setdefault(id(_Broom), _Broom()))
        broom.sweep(memo.get(id(self.module)), self.key)
        return _NOTHING

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, str]]:
        return getattr, (contextlib.nullcontext(), "__exit__")


_NOTHING = contextlib.nullcontext().__exit__  # takes whatever a hook gets, and returns None


class _Broom:
    """Takes hooks out of the copies of their modules when it is thrown away itself."""

    def __init__(self) -> None:
        self._places: list[tuple[nn.Module, int]] = []

    def sweep(self, copied: object, key: int) -> None:
        """Note a place; a module that copies itself in its own way keeps an idle hook."""
        if isinstance(copied, nn.Module):
            self._places.append((copied, key))

    def __del__(self) -> None:
        for module, key in self._places:
            for table in _tables(module):
                table.pop(key, None)


class _HiddenHooks:
    """Hooks that are off their modules while some functions of torch run."""

    def __init__(self) -> None:
        self._hooks: tuple[ModuleHook, ...] = ()
        # Below torch.jit.script, which looks at its caller's frame.
        script = (torch.jit._recursive, "create_script_module")  # noqa: SLF001 - see above
        self._functions = (
            WrappedFunction((script,), self._wrap),
            WrappedFunction(((torch.serialization, "save"), (torch, "save")), self._wrap),
        )

    def add(self, hook: ModuleHook) -> None:
        """Hide a hook from now on."""
        self._hooks += (hook,)
        if len(self._hooks) == 1:
            for function in self._functions:
                function.install()

    def discard(self, hook: ModuleHook) -> None:
        """Hide it no more."""
        self._hooks = tuple(other for other in self._hooks if other is not hook)
        if not self._hooks:
            for function in self._functions:
                function.restore()

    def _wrap(self, original: Function) -> Function:
        @functools.wraps(original)
        def wrapper(*args: object, **kwargs: object) -> object:
            with self._hide():
                return original(*args, **kwargs)

        return wrapper

    @contextlib.contextmanager
    def _hide(self) -> Iterator[None]:
        hidden = self._hooks
        before: list[tuple[_Table, dict[int, object]]] = []
        for hook in hidden:
            for table in _tables(hook.module):
                if hook.key in table:
                    before.append((table, dict(table)))
                    del table[hook.key]
        try:
            yield
        finally:
            live = {hook.key for hook in hidden if hook in self._hooks}
            for table, entries in reversed(before):
                now = dict(table)
                table.clear()  # else they would come back behind hooks of the user's
                table.update((k, v) for k, v in entries.items() if k in now or k in live)
                table.update(now)


def _tables(module: nn.Module) -> list[_Table]:
    return [cast("_Table", getattr(module, name)) for name in _TABLES]


_hidden = _HiddenHooks()  # a patch of torch belongs to the process, as those in `trackside.hooks`
