"""The TensorBoard directory of a run: one event file per life of the daemon.

A file is never appended to by a later process: a torn tail would hide all that follows it.
"""

import logging
import os
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tracksided.durable import sync_directory
from tracksided.errors import OutputError
from tracksided.reports import Scalar, StepReport, Text
from tracksided.sinks import event_protos
from tracksided.sinks.event_file import EventFile, born_at, file_name, own_files
from tracksided.sinks.refusal import output_error

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Commit:
    """How far an event file was written when something became durable."""

    file_name: str
    end_offset: int


class TensorBoardSink:
    """Writes events durably. One thread, one process.

    The file is made at the first write, so that an idle daemon leaves nothing behind.
    """

    def __init__(self, directory: Path, *, wall_time: float) -> None:
        """Remember where to write.

        Args:
            directory: made when needed.
            wall_time: Unix seconds; names the file.
        """
        self._directory = directory
        self._wall_time = wall_time
        self._num_files = 0
        self._file: EventFile | None = None

    def write(self, report: StepReport, *, wall_time: float) -> Commit:
        """Write all events of a step at once.

        Raises:
            OutputError: nothing of them was written.
        """
        return self._append(
            [
                *event_protos.scalar_events(report.scalars, wall_time),
                *event_protos.text_events(report.texts, wall_time),
                *event_protos.histogram_events(report.histograms, wall_time),
                *event_protos.picture_events(report.pictures, report.step, wall_time),
            ]
        )

    def write_events(
        self, scalars: Iterable[Scalar], texts: Iterable[Text], wall_time: float
    ) -> Commit:
        """Write scalars and texts that belong to no sampled step.

        Args:
            scalars: each with its own step.
            texts: each with its own step.
            wall_time: Unix time in seconds.

        Raises:
            OutputError: nothing of them was written.
        """
        return self._append(
            [
                *event_protos.scalar_events(scalars, wall_time),
                *event_protos.text_events(texts, wall_time),
            ]
        )

    def rollback(self, step: int) -> None:
        """Make readers forget this step and all after it: training goes back there.

        Raises:
            OutputError: it cannot be written.
        """
        events = [event_protos.session_start(step, self._wall_time)]
        if step <= 0:
            events.append(event_protos.layout(self._wall_time))  # it lies at step 0
        self._append(events)

    def close(self) -> None:
        """Close the file; twice is fine."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _append(self, events: list[bytes]) -> Commit:
        if self._file is not None and not self._file.is_in_place:
            logger.warning("%s was removed while it was written", self._file.path)
            self.close()
        file, head = (self._file, []) if self._file is not None else self._create()
        try:
            file.append([*head, *events])
        except OutputError:
            if not file.end_offset:
                # Without its header it is of no use, and a full disk must not collect them.
                file.discard()
            if not file.is_sound or not file.end_offset:
                self.close()  # the next write begins another file
            raise
        return Commit(file.path.name, file.end_offset)

    def _create(self) -> tuple[EventFile, list[bytes]]:
        try:
            older = own_files(self._directory)
        except OSError as error:
            raise output_error(self._directory, error) from error
        # Readers take files by name: a clock that went back, or two births in one second, must
        # not put a new file before an older one.
        birth = max([int(self._wall_time), *(born_at(path) + 1 for path in older)])
        name = file_name(birth, socket.gethostname(), os.getpid(), self._num_files)
        is_first = not any(path.stat().st_size for path in older)
        self._file = EventFile(self._directory / name)
        self._num_files += 1
        return self._file, list(event_protos.header(self._wall_time, is_first=is_first))


def written_so_far(directory: Path) -> Commit | None:
    """Return the end of the newest event file that trackside wrote there; None without one.

    Args:
        directory: of the event files; it need not exist.

    Raises:
        OutputError: it cannot be read.
    """
    try:
        files = own_files(directory)
        return Commit(files[-1].name, files[-1].stat().st_size) if files else None
    except OSError as error:
        raise output_error(directory, error) from error


def truncate_uncommitted(directory: Path, committed: Mapping[str, int]) -> None:
    """Cut what a killed daemon wrote and did not commit.

    Args:
        directory: of the event files; it need not exist.
        committed: file to how far it was committed. Files are named by their time of birth: one
            that is named later than all of these was never committed. With none, nothing stays.

    Raises:
        OutputError: a file cannot be cut or removed.
    """
    path = directory
    newest = max(committed, default="")
    try:
        files = own_files(directory)
        for path in files:
            end_offset = committed.get(path.name)
            if end_offset is None and path.name > newest:
                path.unlink()
                logger.info("removed %s: nothing in it was committed", path)
            elif end_offset is not None and path.stat().st_size > end_offset:
                with path.open("r+b") as file:
                    file.truncate(end_offset)
                    os.fsync(file.fileno())
                logger.info("cut %s to its %d committed bytes", path, end_offset)
        if files:
            sync_directory(directory)
    except OSError as error:
        raise output_error(path, error) from error
