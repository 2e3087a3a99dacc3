"""Errors that cost one checkpoint its place, and name it."""

from pathlib import Path

from tracksided.errors import CheckpointRefused


class SourceRefused(CheckpointRefused):
    """One source cannot be used; the others may be."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path.name}: {reason}")
        self.path = path
        self.reason = reason
