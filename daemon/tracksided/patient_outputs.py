"""A run's outputs as the daemon's loop sees them: a thread writes, the loop waits only so long.

A call to a file system whose server is stopped returns when that answers again, be it in a week.
It must not keep other runs, or the daemon's sign of life, waiting. Nor must a history that takes
minutes to read.
"""

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from trackside.wire.records import Hello
from tracksided.errors import OutputError, OutputPending
from tracksided.outputs import RunOutputs
from tracksided.reports import Alert, Scalar, SegmentProgress, StepReport, Text

logger = logging.getLogger(__name__)

WAIT_S = 0.1  # for a call to end: a disk syncs in less, and forty runs may wait for one server
SILENT_S = 10.0  # of a call that has not ended: longer than a busy disk makes one wait
CLOSE_WAIT_S = 1.0

_NEVER_ASKED = None  # key of a call that is not made again

_Result = TypeVar("_Result")


class PatientOutputs:
    """`RunOutputs` in a thread of its own. One thread calls it.

    Every method that writes may raise `OutputPending`: the call goes on in the thread. The same
    call, made again, then gets what became of it; another one is not begun before. What is asked
    of memory meanwhile is that of before or after it.
    """

    def __init__(
        self,
        directory: Path,
        open_outputs: Callable[[Path], RunOutputs],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Do nothing yet; see `open`.

        Args:
            directory: of the run.
            open_outputs: opens it; may take its time.
            clock: monotonic seconds.

        Raises:
            OutputError: no thread can be started.
        """
        self.directory = directory
        self._open_outputs = open_outputs
        self._clock = clock
        self._outputs: RunOutputs | None = None
        self._queue: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._under_way: _Call | None = None
        self._began_at = 0.0
        self._is_silence_told = False
        self._ended: dict[Hashable, _Call] = {}
        # Not waited for at the end of the process, which a call that hangs would keep.
        self._thread = threading.Thread(target=self._serve, name="outputs", daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:
            raise OutputError(f"cannot write {directory}: {error}; raise `ulimit -u`") from error

    def open(self) -> None:
        """Open the directory, unless it is open.

        Raises:
            OutputError: it cannot be made, read or written.
        """
        if self._outputs is None:
            self._do("open", self._open)

    @property
    def is_open(self) -> bool:
        """Whether `open` has succeeded; nothing else may be called before."""
        return self._outputs is not None

    @property
    def is_silent(self) -> bool:
        """Whether the file system has not answered for so long that nothing more is sent there."""
        call = self._under_way
        is_waiting = call is not None and not call.done.is_set()
        return is_waiting and self._clock() - self._began_at >= SILENT_S

    @property
    def problem(self) -> str | None:
        """What is wrong: the file system does not answer, or another daemon writes there."""
        if self.is_silent:
            what = "written" if self.is_open else "read"
            history = "" if self.is_open else " or its history long"
            return (
                f"{self.directory} is not {what} after {SILENT_S:g} s: is its server stopped"
                f"{history}? Other runs go on, and so does this one when that is over"
            )
        return None if self._outputs is None else self._outputs.rival

    @property
    def alerts(self) -> tuple[Alert, ...]:
        """See `RunOutputs`."""
        return self._opened.alerts

    @property
    def last_step(self) -> int:
        """See `RunOutputs`."""
        return self._opened.last_step

    def progress(self, nonce: str) -> SegmentProgress:
        """See `RunOutputs`."""
        return self._opened.progress(nonce)

    def is_finished(self, nonces: Sequence[str]) -> bool:
        """See `RunOutputs`."""
        return self._opened.is_finished(nonces)

    def is_reported(self, nonces: Sequence[str]) -> bool:
        """See `RunOutputs`."""
        return self._opened.is_reported(nonces)

    def has_average(self, average: Mapping[str, object]) -> bool:
        """See `RunOutputs`."""
        return self._opened.has_average(average)

    def newest_lines(self) -> list[Mapping[str, Any]]:
        """See `RunOutputs`."""
        return self._do("lines", self._opened.newest_lines)

    def begin(self, hello: Hello) -> None:
        """See `RunOutputs`."""
        key = ("begin", hello.run, hello.attempt, hello.started_boottime)
        self._do(key, lambda: self._opened.begin(hello))

    def write_folder(self, folder: str, statistics: Mapping[str, object] | None) -> None:
        """See `RunOutputs`."""
        self._do(("folder", folder), lambda: self._opened.write_folder(folder, statistics))

    def commit(self, report: StepReport, records: Mapping[int, tuple[str, int]]) -> None:
        """See `RunOutputs`."""
        key = ("commit", *sorted(records.items()))
        self._do(key, lambda: self._opened.commit(report, records))

    def note_alerts(self, alerts: Sequence[Alert], texts: Sequence[Text]) -> None:
        """See `RunOutputs`."""
        key = ("alerts", *(alert.id for alert in alerts))
        self._do(key, lambda: self._opened.note_alerts(alerts, texts))

    def note_average(
        self, average: Mapping[str, object], scalars: Sequence[Scalar], texts: Sequence[Text]
    ) -> None:
        """See `RunOutputs`; it is done in its turn, and never pending.

        What cannot be written is told in the log.
        """
        act = partial(self._note_average, average, scalars, texts)
        if self._is_free():
            with contextlib.suppress(OutputPending):
                self._do(_NEVER_ASKED, act)
        else:
            self._queue.put(_Call(_NEVER_ASKED, act))

    def finish(
        self,
        totals: Mapping[str, object],
        scalars: Sequence[Scalar],
        texts: Sequence[Text],
        nonces: Sequence[str],
    ) -> None:
        """See `RunOutputs`."""
        key = ("finish", *nonces)
        self._do(key, lambda: self._opened.finish(totals, scalars, texts, nonces))

    def note_report(self, nonces: Sequence[str]) -> None:
        """See `RunOutputs`."""
        self._do(("report", *nonces), lambda: self._opened.note_report(nonces))

    def close(self) -> None:
        """Close all files and end the thread; one that hangs is left to itself."""
        self._queue.put(_Call(None, self._close_outputs))
        self._queue.put(None)
        self._thread.join(CLOSE_WAIT_S)

    @property
    def _opened(self) -> RunOutputs:
        assert self._outputs is not None  # noqa: S101 - nothing is called before `open`
        return self._outputs

    def _note_average(
        self, average: Mapping[str, object], scalars: Sequence[Scalar], texts: Sequence[Text]
    ) -> None:
        try:
            self._opened.note_average(average, scalars, texts)
        except OutputError as error:
            logger.error("an averaging is not noted: %s", error)  # noqa: TRY400 - no traceback for the user

    def _open(self) -> None:
        self._outputs = self._open_outputs(self.directory)

    def _close_outputs(self) -> None:
        if self._outputs is not None:
            self._outputs.close()

    def _do(self, key: Hashable, act: Callable[[], _Result]) -> _Result:
        """Do something in the thread, or get what became of it.

        Args:
            key: equal for the same call.
            act: what to do.
        """
        is_free = self._is_free()
        self._ended.pop(_NEVER_ASKED, None)
        call = self._ended.pop(key, None)
        if call is None and is_free:
            call = self._under_way = _Call(key, act)
            self._began_at = self._clock()
            self._queue.put(call)
            call.done.wait(WAIT_S)
            call = self._ended.pop(key, None) if self._is_free() else None
        if call is None:
            raise OutputPending(f"{self.directory} is being written")
        result: _Result = call.result()
        return result

    def _is_free(self) -> bool:
        """Take note of what the call under way has come to; whether there is none."""
        call = self._under_way
        if call is None:
            return True
        if not call.done.is_set():
            if self.is_silent and not self._is_silence_told:
                self._is_silence_told = True
                logger.error("%s", self.problem)
            return False
        if self._is_silence_told:
            logger.warning("%s: what took so long is done, going on", self.directory)
        self._under_way, self._is_silence_told = None, False
        self._ended[call.key] = call
        return True

    def _serve(self) -> None:
        while (call := self._queue.get()) is not None:
            call.run()


class _Call:
    """Something to be done in the thread, and what became of it."""

    def __init__(self, key: Hashable, act: Callable[[], Any]) -> None:
        self.key = key
        self.done = threading.Event()
        self._act = act
        self._value: Any = None
        self._error: Exception | None = None

    def run(self) -> None:
        try:
            self._value = self._act()
        except Exception as error:  # noqa: BLE001 - raised again in the thread that asked
            self._error = error
        self.done.set()

    def result(self) -> Any:
        if self._error is not None:
            raise self._error
        return self._value
