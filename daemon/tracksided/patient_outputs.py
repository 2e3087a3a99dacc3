"""A run's outputs as the daemon's loop sees them: a thread writes, the loop waits only so long.

A file server that is stopped must not keep other runs, or the daemon's sign of life, waiting. Nor
must a history that takes minutes to read.
"""

import contextlib
import logging
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from trackside.wire.records import Hello
from tracksided.errors import OutputError, OutputPending
from tracksided.outputs import RunOutputs
from tracksided.patient_thread import NEVER_ASKED, SILENT_S, PatientThread
from tracksided.reports import Alert, Scalar, SegmentProgress, StepReport, Text

logger = logging.getLogger(__name__)

WAIT_S = 0.1  # for a call to end: a disk syncs in less, and forty runs may wait for one server

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
        """
        self.directory = directory
        self._open_outputs = open_outputs
        self._outputs: RunOutputs | None = None
        self._thread = PatientThread(WAIT_S, clock)

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
        return self._thread.is_silent

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
        if self._thread.is_free:
            with contextlib.suppress(OutputPending):
                self._do(NEVER_ASKED, act)
        else:
            self._thread.do_later(act)

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
        self._thread.close(self._close_outputs)

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
        """Do something in the thread, or get what became of it."""
        try:
            call = self._thread.do(key, act)
        except RuntimeError as error:
            raise OutputError(f"cannot write {self.directory}: {error}; see `ulimit -u`") from error
        self._tell_silence()
        if call is None:
            raise OutputPending(f"{self.directory} is being written")
        result: _Result = call.result()
        return result

    def _tell_silence(self) -> None:
        news = self._thread.silence_news()
        if news:
            logger.error("%s", self.problem)
        elif news is not None:
            logger.warning("%s: what took so long is done, going on", self.directory)
