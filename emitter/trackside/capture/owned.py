"""Which parameters are a session's own: other models train in the same process."""

import weakref
from collections.abc import Callable, Iterable, Sequence
from threading import get_ident

import torch

MAX_STRANGERS = 64  # lists of other models' parameters that are known again


class OwnParameters:
    """Tells lists of a session's own parameters from those of others. One thread at a time."""

    def __init__(self, parameters: Callable[[], Iterable[torch.Tensor]]) -> None:
        """Ask ``parameters`` for the session's own, whenever a list is not known yet."""
        self._parameters = parameters
        self._strangers: dict[tuple[int, int], weakref.ref[torch.Tensor]] = {}

    def are_in(self, given: object) -> bool:
        """Whether any is in a list; also where nobody can tell: an iterator can be read once."""
        given = [given] if isinstance(given, torch.Tensor) else given
        if not isinstance(given, Sequence):
            return True
        if not given:
            return False
        key = (id(given[0]), len(given))
        known = self._strangers.get(key)
        if known is not None and known() is given[0]:
            return False
        own = {id(parameter) for parameter in self._parameters()}
        if any(id(parameter) in own for parameter in given):
            return True
        if len(self._strangers) >= MAX_STRANGERS:
            self.forget()
        self._strangers[key] = weakref.ref(given[0])
        return False

    def forget(self) -> None:
        """Ask anew for every list: parameters may have come to the model."""
        self._strangers.clear()


class GradientTrace:
    """Tells whether any gradient was written to since it was asked to look. Keeps none alive."""

    def __init__(self) -> None:
        self._seen: tuple[tuple[int, int] | None, ...] = ()

    @property
    def had_any(self) -> bool:
        """Whether there was a gradient when it looked last."""
        return any(self._seen)

    def look(self, parameters: Iterable[torch.Tensor]) -> bool:
        """Look, and return whether anything differs from the last time."""
        before, self._seen = self._seen, tuple(map(_trace, parameters))
        return before != self._seen


def _trace(parameter: torch.Tensor) -> tuple[int, int] | None:
    """Return which tensor a parameter's gradient is, and how often it was written to."""
    gradient = parameter.grad
    if gradient is None:
        return None
    return id(gradient), 0 if gradient.is_inference() else gradient._version  # noqa: SLF001 - no other name


class TrainingThread:
    """Which thread trains, once that is known: others train other models."""

    def __init__(self) -> None:
        self._ident: int | None = None

    def set(self) -> None:
        """Take it to be this one."""
        self._ident = get_ident()

    def is_other(self) -> bool:
        """Whether this is another one."""
        return self._ident not in {None, get_ident()}
