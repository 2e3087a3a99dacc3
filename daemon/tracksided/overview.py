"""What is made of a whole output directory: its history and step folders in, pictures out.

It runs in a worker, beside the daemon that goes on to write there: it sees what is committed.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from tracksided.catalog import RUN_RENDERERS
from tracksided.errors import OutputError
from tracksided.sinks.history import FILE_NAME as HISTORY_FILE
from tracksided.sinks.json_file import parse_json, write_whole
from tracksided.sinks.line_file import bounded_lines
from tracksided.sinks.refusal import output_error
from tracksided.stages import RecordedStep

logger = logging.getLogger(__name__)

FOLDER = "overview"
MAX_FILE_BYTES = 8 << 20  # of a picture that is read: far beyond what our own have


def write_overview(directory: Path, visualize: Sequence[str]) -> dict[str, str]:
    """Make what is made of all steps together, in the folder ``overview``.

    Args:
        directory: the output directory of a run.
        visualize: names of the renderers to run; words without one are passed over.

    Returns:
        Stage name to the error that cost its output.

    Raises:
        OutputError: a file cannot be read or written.
    """
    failures: dict[str, str] = {}
    path = directory / HISTORY_FILE
    try:
        (directory / FOLDER).mkdir(exist_ok=True)
        file = path.open("rb")
    except OSError as error:
        raise output_error(path, error) from error
    with file:
        run = RunDirectory(directory, file)
        for renderer in RUN_RENDERERS:
            if renderer.name not in visualize:
                continue
            try:
                for picture in renderer.render(run):
                    write_whole(directory / FOLDER / picture.file_name, picture.png)
            except OutputError:
                raise
            except Exception as error:
                logger.debug("%s failed", renderer.name, exc_info=True)
                failures[f"renderer {renderer.name}"] = repr(error)
    return failures


class RunDirectory:
    """What lies in an output directory, as `tracksided.stages.RunData`. One thread."""

    def __init__(self, directory: Path, history: BinaryIO) -> None:
        """Find the steps; lines that are torn or of another kind are passed over.

        Args:
            directory: of the run.
            history: its ``history.jsonl``, open for as long as this is used.
        """
        self._directory = directory
        self._history = history
        self._offsets: dict[RecordedStep, int] = {}
        steps: list[RecordedStep] = []
        offset = 0
        for content in bounded_lines(history):
            step = _recorded(content)
            if step is not None:
                # Training went back: what lies ahead belongs to an abandoned try.
                while steps and steps[-1].step >= step.step:
                    self._offsets.pop(steps.pop(), None)
                steps.append(step)
                self._offsets[step] = offset
            offset = history.tell()
        self.steps: Sequence[RecordedStep] = tuple(steps)

    def line(self, step: RecordedStep) -> Mapping[str, Any]:
        """Return the line of a step in ``history.jsonl``."""
        self._history.seek(self._offsets[step])
        line: Mapping[str, Any] = parse_json(next(bounded_lines(self._history), b""))
        return line

    def files(self, step: RecordedStep) -> Sequence[str]:
        """Return the names of the files in a step's folder; none where it is gone."""
        try:
            return tuple(path.name for path in (self._directory / step.folder).iterdir())
        except OSError:
            return ()

    def read(self, step: RecordedStep, file_name: str) -> bytes | None:
        """Return what a file in a step's folder holds; None where that cannot be read."""
        try:
            with (self._directory / step.folder / file_name).open("rb") as file:
                content = file.read(MAX_FILE_BYTES + 1)
        except OSError:
            return None
        return content if len(content) <= MAX_FILE_BYTES else None


def _recorded(line: bytes) -> RecordedStep | None:
    try:
        document = parse_json(line)
    except ValueError:
        return None
    match document:
        case {"step": int(step), "folder": str(folder)} if Path(folder).name == folder:
            return RecordedStep(step, folder)
        case _:
            return None
