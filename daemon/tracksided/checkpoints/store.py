"""What averaging needs of the place where checkpoints lie: a directory here, or a bucket."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tracksided.checkpoints.formats.base import OutputLayout
from tracksided.checkpoints.source import SourceDirectory, SourceFile
from tracksided.checkpoints.writeback import Target


@dataclass(frozen=True, slots=True)
class Entry:
    """A file or directory in a store."""

    name: str
    is_directory: bool
    identity: tuple[object, ...]
    """Equal for two names of one file only."""


@dataclass(frozen=True, slots=True)
class Home:
    """Where the average of a store's checkpoints is published."""

    store: "Store"
    prefix: str
    """What names of averages begin with there."""

    sources_in: str
    """Where the checkpoints are, as seen from there."""


class Unpublished(Protocol):
    """An output that nobody else sees until `commit`."""

    @property
    def targets(self) -> Sequence[Target]:
        """Its files, for writing."""

    @property
    def paths(self) -> Sequence[Path]:
        """Where they can be read meanwhile; empty where they cannot."""

    @property
    def whole(self) -> Path | None:
        """The file or directory that can be read meanwhile as the output will be, or None."""

    def sync(self) -> None:
        """Wait until everything written is on disk."""

    def commit(self, provenance: Mapping[str, object]) -> None:
        """Publish it together with its provenance."""


class Store(Protocol):
    """A place that holds checkpoints or averages, mostly both. Its text is for messages."""

    @property
    def path(self) -> Path:
        """What the paths of its checkpoints begin with."""

    def home(self) -> Home:
        """Return where their average is published; raises OutputError."""

    def entries(self) -> tuple[Entry, ...]:
        """List it, without hidden names; raises CheckpointError."""

    def written_at(self, entry: Entry) -> int:
        """Return when an entry was written last, in nanoseconds; 0 where it is gone."""

    def names_in(self, name: str) -> frozenset[str]:
        """Return the names in a directory of it; none where it is gone."""

    def has_file(self, name: str) -> bool:
        """Whether there is a file of a name; ``directory/name`` is allowed."""

    def open_file(self, name: str) -> SourceFile:
        """Open a file; raises SourceRefused."""

    def open_directory(self, name: str) -> SourceDirectory:
        """Open a directory; raises SourceRefused."""

    def provenance_of(self, output: str) -> Mapping[str, object] | None:
        """Return the provenance of an output; None where there is none that can be read."""

    def bytes_of(self, output: str) -> int | None:
        """Return the size of an output without its provenance.

        None where it is not whole, or was altered since.
        """

    def sweep(self) -> None:
        """Remove what killed writers left behind."""

    def prepare(self, output: str, layout: OutputLayout) -> AbstractContextManager[Unpublished]:
        """Begin an output; leaving the context without `Unpublished.commit` removes it.

        Raises:
            OutputError: it cannot be written.
        """
