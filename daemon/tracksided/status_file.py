"""``status.json`` in the node-local directory: how the daemon tells others what it does.

A file and not a question over a socket: whoever looks never makes the daemon do anything.
"""

import logging
import os
from collections.abc import Mapping
from pathlib import Path

from trackside.wire.locks import OWNER_ONLY
from tracksided.errors import OutputError
from tracksided.sinks.json_file import Json, read_json, write_json

logger = logging.getLogger(__name__)

FILE_NAME = "status.json"
SCHEMA = 1
SOON_S = 0.5  # between two writes while things change
LATE_S = 10.0  # a sign of life while nothing does
SILENT_S = 3 * LATE_S  # three signs of life missed: the daemon is stopped or starved


class StatusFile:
    """Writes the file when something changed, not too often."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / FILE_NAME
        self._last: Mapping[str, object] | None = None
        self._written_at = float("-inf")
        self._problem: str | None = None

    def is_due(self, now: float) -> bool:
        """Whether it is worth while to gather what `write` takes."""
        return now - self._written_at >= SOON_S

    def write(self, content: Mapping[str, object], now: float, wall_time: float) -> None:
        """Replace the file if the content is new or the last sign of life is old.

        Args:
            content: what the daemon says of itself.
            now: monotonic seconds.
            wall_time: Unix seconds.
        """
        if content == self._last and now - self._written_at < LATE_S:
            return
        self._written_at = now
        try:
            write_json(
                self._path,
                {
                    "schema": SCHEMA,
                    "pid": os.getpid(),
                    "updated_at": wall_time,
                    "updated_monotonic": now,
                    **content,
                },
                mode=OWNER_ONLY,
            )
        except OutputError as error:
            if str(error) != self._problem:
                self._problem = str(error)
                logger.warning("%s; runs are served all the same, but nobody can look", error)
            return
        self._last, self._problem = content, None

    def remove(self) -> None:
        """Remove the file at the end of the daemon."""
        self._path.unlink(missing_ok=True)


def seconds_silent(status: Mapping[str, object], *, wall: float, monotonic: float) -> float | None:
    """Return how long ago the daemon gave a sign of life; None where the file does not say.

    By the monotonic clock, which all processes of a machine share and nobody sets. Only a time
    namespace has another one: where the answer makes no sense, the wall clock is asked.

    Args:
        status: what `read_status` returned.
        wall: Unix seconds now.
        monotonic: seconds now.
    """
    then = status.get("updated_monotonic")
    if isinstance(then, int | float) and then <= monotonic:
        return monotonic - then
    then = status.get("updated_at")
    return max(wall - then, 0.0) if isinstance(then, int | float) else None


def read_status(directory: Path) -> dict[str, Json] | None:
    """Return what the daemon wrote last, None where there is nothing to read."""
    return read_json(directory / FILE_NAME)
