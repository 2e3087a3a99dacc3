"""Closures given to an optimizer's step: forward and backward run inside of it."""

from collections.abc import Callable

Args = tuple[object, ...]
Kwargs = dict[str, object]


def run_after_closure(
    args: Args, kwargs: Kwargs, then: Callable[[], None]
) -> tuple[Args, Kwargs] | None:
    """Return the arguments of a step with its closure wrapped: ``then`` runs after its first call.

    None where there is no closure.

    Args:
        args: as a step hook gets them: the optimizer, then what the step was called with.
        kwargs: likewise.
        then: must not raise.
    """
    closure = args[1] if len(args) > 1 else kwargs.get("closure")
    if not callable(closure):
        return None
    wrapped = _wrap(closure, then)
    if len(args) > 1:
        return (args[0], wrapped, *args[2:]), kwargs
    return args, {**kwargs, "closure": wrapped}


def _wrap(closure: Callable[[], object], then: Callable[[], None]) -> Callable[[], object]:
    is_first = True

    def wrapped() -> object:
        nonlocal is_first
        result = closure()
        if is_first:
            is_first = False
            then()
        return result

    return wrapped
