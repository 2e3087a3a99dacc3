"""``history.jsonl``: one line per sampled step. A line that is whole commits its step.

A line names the records it came from (``records``: rank to [nonce of the segment, sequence
number]) and how far the TensorBoard file was written (``tensorboard``), so that a daemon which
starts anew knows what is done.
"""

import io
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path

from tracksided.durable import sync_directory
from tracksided.reports import SegmentProgress
from tracksided.sinks.json_file import encode, is_in_place
from tracksided.sinks.refusal import output_error
from tracksided.sinks.tensorboard import Commit

logger = logging.getLogger(__name__)

FILE_NAME = "history.jsonl"


class HistoryFile:
    """Appends lines durably. One thread, one process."""

    def __init__(self, directory: Path) -> None:
        """Read what is there and cut a line that a kill left torn.

        Raises:
            OutputError: the file cannot be read or written.
        """
        self.path = directory / FILE_NAME
        self.last_step = 0
        """Of the newest line, 0 where there is none."""

        self.last_commit: Commit | None = None
        self._progress: dict[str, SegmentProgress] = {}
        self._num_lines = 0
        try:
            self._file = self._open()
            self._size = self._read()
            self._file.truncate(self._size)
        except OSError as error:
            raise output_error(self.path, error) from error

    def progress(self, nonce: str) -> SegmentProgress:
        """Return what is committed of a segment."""
        return self._progress.get(nonce, SegmentProgress())

    def append(
        self,
        line: Mapping[str, object],
        records: Mapping[int, tuple[str, int]],
        commit: Commit | None,
    ) -> None:
        """Add one line; when this returns, the step is committed.

        Raises:
            OutputError: it cannot be written; nothing was added.
        """
        document = {
            **line,
            "records": {str(rank): list(identity) for rank, identity in records.items()},
            "tensorboard": None
            if commit is None
            else {"file": commit.file_name, "end": commit.end_offset},
        }
        encoded = encode(document)
        try:
            self._follow()
            self._write(encoded)
        except OSError as error:
            raise output_error(self.path, error) from error
        self._size += len(encoded)
        self._note(document)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _open(self) -> io.FileIO:
        is_new = not self.path.exists()
        file = self.path.open("ab", buffering=0)
        if is_new:
            sync_directory(self.path.parent)
        return file

    def _follow(self) -> None:
        """Begin anew where somebody moved or removed the file: what we append must be found."""
        if is_in_place(self.path, self._file.fileno()):
            return
        logger.warning("%s was removed or replaced while it was written; going on", self.path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lost, self._file = self._file, self._open()
        lost.close()
        self._size = self.path.stat().st_size

    def _write(self, encoded: bytes) -> None:
        try:
            written = 0
            while written < len(encoded):
                written += self._file.write(encoded[written:])
            os.fsync(self._file.fileno())
        except OSError:
            self._file.truncate(self._size)
            raise

    def _read(self) -> int:
        """Take in all whole lines; return how many bytes they have."""
        size = 0
        with self.path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    logger.warning("%s: a torn last line is removed", self.path)
                    break
                size += len(line)
                try:
                    self._note(json.loads(line))
                except (ValueError, TypeError, KeyError, AttributeError) as error:
                    logger.warning("%s: line %d is left as it is: %s", self.path, number, error)
        return size

    def _note(self, document: Mapping[str, object]) -> None:
        step, records, position = (
            document[key] for key in ("step", "records", "tensorboard")
        )  # fmt: skip - one line per part
        if not isinstance(step, int) or not isinstance(records, dict):
            raise TypeError("step or records have another type")
        self.last_step = step
        self._num_lines += 1
        for nonce, sequence in records.values():
            progress = self._progress.setdefault(nonce, SegmentProgress())
            progress.last_step = step
            progress.last_sequence = max(progress.last_sequence, int(sequence))
            progress.last_line = self._num_lines
            progress.num_steps += 1
        if isinstance(position, dict):
            self.last_commit = Commit(str(position["file"]), int(position["end"]))
