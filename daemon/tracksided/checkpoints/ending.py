"""End an averaging by an exception when a signal asks for it, so that nothing half made stays."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

_ENDING = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP})


@contextlib.contextmanager
def signals_as_exits(*numbers: signal.Signals) -> Iterator[None]:
    """Raise SystemExit where a signal would have killed, like Ctrl-C; for the main thread.

    One that is ignored, as under ``nohup``, stays so.

    Args:
        numbers: of the signals.
    """
    heeded = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, _exit) for number in heeded}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def signals_held() -> Iterator[None]:
    """Let the signals that end an averaging wait for the end of the block.

    Their handlers wait, not the signals: one that is blocked in the main thread goes to another,
    OpenBLAS's say, and Python runs its handler in the main thread all the same. In other threads
    no handler runs, and there is nothing to hold.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    hold = _Hold()
    try:
        hold.begin()
        yield
    finally:
        hold.end()


class _Hold:
    """Stands before the handlers. Once it is over it hands on what comes, should it stay there."""

    def __init__(self) -> None:
        found = {int(number): signal.getsignal(number) for number in _ENDING}
        self._handlers = {n: handler for n, handler in found.items() if callable(handler)}
        self._came: list[int] = []
        self._is_over = False

    def begin(self) -> None:
        for number in self._handlers:
            signal.signal(number, self._note)

    def end(self) -> None:
        self._is_over = True
        try:
            if self._came:
                self._handlers[self._came[0]](self._came[0], None)
        finally:
            for number, handler in self._handlers.items():
                signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._is_over:
            self._handlers[number](number, frame)
        else:
            self._came.append(number)


def _exit(number: int, frame: FrameType | None) -> None:
    del frame
    raise SystemExit(128 + number)
