"""Errors that cost one checkpoint its place, and name it.

What parses bytes does not know which file they are of, and raises CheckpointRefused, which says
what is wrong. Who knows the file puts `refused_as` around it.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from tracksided.errors import CheckpointRefused


class SourceRefused(CheckpointRefused):
    """One source cannot be used; the others may be."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path.name}: {reason}")
        self.path = path
        """Of the checkpoint."""

        self.reason = reason
        """What is wrong with it, without its name."""


class Refusable(Protocol):
    """What can be named in a refusal: a file, a directory, a checkpoint."""

    def refusal(self, reason: str) -> SourceRefused:
        """Make the error that costs the checkpoint its place."""


@contextlib.contextmanager
def refused_as(source: Refusable) -> Iterator[None]:
    """Name a source in what is refused inside; what is named already stays as it is.

    Raises:
        SourceRefused: in the place of CheckpointRefused.
    """
    try:
        yield
    except SourceRefused:
        raise
    except CheckpointRefused as error:
        raise source.refusal(str(error)) from error
