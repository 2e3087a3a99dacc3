"""Functions of torch that are wrapped while a session listens, and put back after.

Two things happen without any hook of torch's own: ``backward`` on the loss, and clipping. Both
functions are looked up in their module at every call, so replacing the attribute reaches early
imports of ``Tensor.backward`` and ``clip_grad_norm_`` too.
"""

import functools
import sys
from collections.abc import Callable, Mapping
from types import FrameType, ModuleType

import torch
from torch.compiler import is_dynamo_compiling
from torch.nn.utils import clip_grad

Arguments = tuple[object, ...]
Observer = Callable[[Arguments, Mapping[str, object]], None]
After = Callable[[], None]
Function = Callable[..., object]


class WrappedFunction:
    """A function that is another one in its modules from `install` to `restore`.

    Where somebody else has wrapped it in between, ours stays below: it has to do nothing then.
    """

    def __init__(
        self, places: tuple[tuple[ModuleType, str], ...], wrap: Callable[[Function], Function]
    ) -> None:
        """Prepare; nothing is replaced yet.

        Args:
            places: every module attribute that holds the function; the first is wrapped.
            wrap: makes what takes its place, once.
        """
        self._places = places
        self._wrap = wrap
        self._original: Function | None = None
        self._wrapper: Function | None = None

    def install(self) -> None:
        """Put the wrapper where the function is."""
        module, name = self._places[0]
        if self._wrapper is None:
            self._original = getattr(module, name)
            self._wrapper = self._wrap(self._original)
        self._replace(self._original, self._wrapper)

    def restore(self) -> None:
        """Put the function back; twice is fine."""
        self._replace(self._wrapper, self._original)

    def _replace(self, old: Function | None, new: Function | None) -> None:
        for module, name in self._places:
            if old is not None and getattr(module, name, None) is old:
                setattr(module, name, new)


class FunctionHook:
    """Tells observers about calls of one function, before or after it. They must not raise.

    The function is wrapped when the first observer comes and put back when the last one goes.
    Calls from within a call (a checkpoint's recomputation) and calls being compiled are not told.
    """

    def __init__(self, places: tuple[tuple[ModuleType, str], ...]) -> None:
        """Name every module attribute that holds the function; the first is wrapped."""
        self._function = WrappedFunction(places, self._wrap)
        self._observers: tuple[Observer, ...] = ()
        self._tell: Observer = self._tell_all  # or the one there is: this runs in every step
        self._after: tuple[After, ...] = ()

    def add(self, observer: Observer) -> None:
        """Tell ``observer`` from now on."""
        self._set_observers((*self._observers, observer))
        if len(self._observers) == 1:
            self._function.install()

    def remove(self, observer: Observer) -> None:
        """Tell ``observer`` no more; one that was never added is fine."""
        self._set_observers(tuple(other for other in self._observers if other != observer))
        if not self._observers:
            self._function.restore()

    def add_after(self, observer: After) -> None:
        """Tell ``observer`` when a call has returned; only while there is another, told before."""
        self._after += (observer,)

    def remove_after(self, observer: After) -> None:
        """Tell ``observer`` no more; one that was never added is fine."""
        self._after = tuple(other for other in self._after if other != observer)

    def _set_observers(self, observers: tuple[Observer, ...]) -> None:
        self._observers = observers
        self._tell = observers[0] if len(observers) == 1 else self._tell_all

    def _tell_all(self, args: Arguments, kwargs: Mapping[str, object]) -> None:
        for observer in self._observers:
            observer(args, kwargs)

    def _wrap(self, original: Function) -> Function:
        is_running = False  # in any thread

        @functools.wraps(original)
        def wrapper(*args: object, **kwargs: object) -> object:
            nonlocal is_running
            if is_dynamo_compiling() or (is_running and _is_nested()):
                return original(*args, **kwargs)
            self._tell(args, kwargs)
            is_running = True
            try:
                result = original(*args, **kwargs)
            finally:
                is_running = False
            for tell in self._after:
                tell()
            return result

        return wrapper


def _is_nested() -> bool:
    """Whether the wrapper that asks is on this thread's stack twice."""
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001 - no public way to this frame
    code = None if frame is None else frame.f_code
    while frame is not None and (frame := frame.f_back) is not None:
        if frame.f_code is code:
            return True
    return False


# Patches of torch belong to the process, so these do too.
backward_hook = FunctionHook(((torch.autograd, "backward"),))
clip_hook = FunctionHook(
    ((clip_grad, "_clip_grads_with_norm_"), (torch.nn.utils, "clip_grads_with_norm_"))
)
