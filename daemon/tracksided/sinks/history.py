"""``history.jsonl``: one line per sampled step. A line that is whole commits its step.

A line names the records it came from (``records``: rank to [nonce of the segment, sequence
number]) and how far the TensorBoard file was written (``tensorboard``), so that a daemon which
starts anew knows what is done.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tracksided.reports import SegmentProgress
from tracksided.sinks.event_file import writer_of
from tracksided.sinks.json_file import encode
from tracksided.sinks.line_file import LineFile
from tracksided.sinks.tensorboard import Commit

logger = logging.getLogger(__name__)

FILE_NAME = "history.jsonl"


class HistoryFile:
    """Appends steps durably. One thread, one process."""

    def __init__(self, directory: Path) -> None:
        """Read what is there and cut a line that a kill left torn.

        Raises:
            OutputError: the file cannot be read or written.
        """
        self.path = directory / FILE_NAME
        self.last_step = 0
        """Of the newest line, 0 where there is none."""

        self.committed: dict[str, int] = {}
        """Event file to how far it was written, as far as lines say."""

        self.rival: str | None = None
        """Who else has added lines since the file was opened, and what to do about it."""

        self._progress: dict[str, SegmentProgress] = {}
        self._num_lines = 0
        self._file = LineFile(self.path)
        for number, document in self._file.lines():
            try:
                self._note(document)
            except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
                logger.warning("%s: line %d is left as it is: %s", self.path, number, error)

    def progress(self, nonce: str) -> SegmentProgress:
        """Return what is committed of a segment."""
        return self._progress.get(nonce, SegmentProgress())

    def newest(self, count: int) -> list[Mapping[str, Any]]:
        """Return the newest lines, oldest first.

        Raises:
            OutputError: the file cannot be read.
        """
        return [line for line in self._file.newest(count) if isinstance(line, dict)]

    def append(
        self,
        line: Mapping[str, object],
        records: Mapping[int, tuple[str, int]],
        commit: Commit | None,
    ) -> None:
        """Add one line; when this returns, the step is committed.

        Args:
            line: the object of the step.
            records: rank to (nonce of its segment, sequence number).
            commit: how far its event file was written; None where there is none.

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
        self._file.append(encode(document))
        self._note(document)
        foreign = self._file.take_foreign()
        if foreign and self.rival is None:
            self.rival = self._name_rival(foreign[-1])
            logger.warning("%s", self.rival)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _name_rival(self, line: object) -> str:
        match line:
            case {"tensorboard": {"file": str(name)}}:
                writer = writer_of(name)
            case _:
                writer = None
        who = (
            "something else" if writer is None else f"another daemon (pid {writer[1]}, {writer[0]})"
        )
        return (
            f"{who} writes to {self.path.parent} too: steps of both stand in its files, and curves "
            "jump between them; give each job a run id or a save_dir of its own, and see that one "
            "daemon alone serves a node"
        )

    def _note(self, document: Mapping[str, object]) -> None:
        step, records, position = (document[key] for key in ("step", "records", "tensorboard"))
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
            name, end = str(position["file"]), int(position["end"])
            self.committed[name] = max(end, self.committed.get(name, 0))
