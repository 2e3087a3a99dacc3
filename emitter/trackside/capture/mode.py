"""A function mode that shows calls of torch to an observer and changes nothing."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch._C import (
    _get_function_stack_at,
    _len_torch_function_stack,
    _pop_torch_function_stack,
    _push_on_torch_function_stack,
)
from torch.overrides import TorchFunctionMode

Observer = Callable[[object, Sequence[object], Mapping[str, object]], None]
"""Gets a function and what it was called with; must not raise."""


class CallMode(TorchFunctionMode):
    """Runs every call once and as it is, then shows it to the observer."""

    def __init__(self, observe: Observer) -> None:
        super().__init__()
        self._observe = observe

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        passed = kwargs or {}
        result = func(*args, **passed)
        # What is compiled in the block is traced through here; the graph must not see us.
        if not torch.compiler.is_compiling():
            self._observe(func, args, passed)
        return result

    def put_on(self) -> None:
        """Push the mode on top of this thread's stack."""
        _push_on_torch_function_stack(self)

    def take_off(self) -> None:
        """Remove the mode from this thread's stack, if it is there, and leave the others."""
        stack = (_get_function_stack_at(i) for i in range(_len_torch_function_stack()))
        if not any(other is self for other in stack):
            return
        above = []
        while (top := _pop_torch_function_stack()) is not self:
            above.append(top)
        for other in reversed(above):
            _push_on_torch_function_stack(other)
