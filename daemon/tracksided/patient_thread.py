"""Calls that may hang: a thread makes them one after the other, and who asks waits only so long.

A call to a file system whose server is stopped returns when that answers again, be it in a week.
"""

import queue
import threading
import time
from collections.abc import Callable, Hashable
from typing import Any

SILENT_S = 10.0  # of a call that has not ended: longer than a busy disk makes one wait
CLOSE_WAIT_S = 1.0
NEVER_ASKED = None  # key of a call that is not made again


class PatientCall:
    """Something to be done in the thread, and what became of it."""

    def __init__(self, key: Hashable, act: Callable[[], Any]) -> None:
        self.key = key
        self.done = threading.Event()
        self._act = act
        self._value: Any = None
        self._error: Exception | None = None

    def run(self) -> None:
        """Do it."""
        try:
            self._value = self._act()
        except Exception as error:  # noqa: BLE001 - raised again in the thread that asked
            self._error = error
        self.done.set()

    def result(self) -> Any:
        """Return what it returned, or raise what it raised."""
        if self._error is not None:
            raise self._error
        return self._value


class PatientThread:
    """Makes calls in a thread, which starts with the first. One thread calls it."""

    def __init__(self, wait_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Do nothing yet.

        Args:
            wait_s: for a call to end.
            clock: monotonic seconds.
        """
        self._wait_s = wait_s
        self._clock = clock
        self._thread: threading.Thread | None = None
        self._queue: queue.SimpleQueue[PatientCall | None] = queue.SimpleQueue()
        self._under_way: PatientCall | None = None
        self._began_at = 0.0
        self._was_silent = False  # when `silence_news` was asked last
        self._ended: dict[Hashable, PatientCall] = {}

    @property
    def is_silent(self) -> bool:
        """Whether the call under way takes so long that its file system must be taken as dead."""
        call = self._under_way
        is_waiting = call is not None and not call.done.is_set()
        return is_waiting and self._clock() - self._began_at >= SILENT_S

    def silence_news(self) -> bool | None:
        """Return `is_silent` where it is not what this returned last, else None: for a log."""
        is_silent = self.is_silent
        if is_silent == self._was_silent:
            return None
        self._was_silent = is_silent
        return is_silent

    @property
    def is_free(self) -> bool:
        """Whether no call is under way; takes note of what the last one has come to."""
        call = self._under_way
        if call is not None and call.done.is_set():
            self._under_way = None
            if call.key is not NEVER_ASKED:
                self._ended[call.key] = call
        return self._under_way is None

    def do(self, key: Hashable, act: Callable[[], Any]) -> PatientCall | None:
        """Make a call, or get what became of it; None while it, or another one, is under way.

        Args:
            key: equal for the same call; `NEVER_ASKED` for one whose result is lost if it comes
                too late.
            act: what to do.

        Raises:
            RuntimeError: no thread can be started.
        """
        is_free = self.is_free
        call = self._ended.pop(key, None)
        if call is None and is_free:
            call = self._begin(key, act)
            call.done.wait(self._wait_s)
            is_over = self.is_free
            self._ended.pop(key, None)
            return call if is_over else None
        return call

    def do_later(self, act: Callable[[], Any]) -> None:
        """Make a call behind the one under way; what becomes of it is not told."""
        self._queue.put(PatientCall(NEVER_ASKED, act))

    def close(self, last: Callable[[], Any] | None = None) -> None:
        """Make one last call and end the thread; one that hangs is left to itself.

        Args:
            last: what to do; None for nothing.
        """
        if self._thread is None:
            if last is None:
                return
            self._start()
        if last is not None:
            self.do_later(last)
        self._queue.put(None)
        if self._thread is not None:
            self._thread.join(CLOSE_WAIT_S)
        # A call that hangs keeps its thread and queue: whatever comes later has its own.
        self._thread, self._queue, self._under_way = None, queue.SimpleQueue(), None

    def _begin(self, key: Hashable, act: Callable[[], Any]) -> PatientCall:
        if self._thread is None:
            self._start()
        call = self._under_way = PatientCall(key, act)
        self._began_at = self._clock()
        self._queue.put(call)
        return call

    def _start(self) -> None:
        # Not waited for at the end of the process, which a call that hangs would keep.
        thread = threading.Thread(target=_serve, args=(self._queue,), name="patient", daemon=True)
        thread.start()
        self._thread = thread


def _serve(calls: "queue.SimpleQueue[PatientCall | None]") -> None:
    while (call := calls.get()) is not None:
        call.run()
