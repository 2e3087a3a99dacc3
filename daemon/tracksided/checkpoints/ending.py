"""End an averaging by an exception when a signal asks for it, so that nothing half made stays."""

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType


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


def _exit(number: int, frame: FrameType | None) -> None:
    del frame
    raise SystemExit(128 + number)
