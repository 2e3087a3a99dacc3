"""End an averaging by an exception when a signal asks for it, so that nothing half made stays."""

import contextlib
import signal
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
    """Let the signals that end an averaging wait for the end of the block, in this thread.

    Threads that are started in the block hold them as long as they run.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)  # raises what came just before
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)  # raises what came meanwhile


def _exit(number: int, frame: FrameType | None) -> None:
    del frame
    raise SystemExit(128 + number)
