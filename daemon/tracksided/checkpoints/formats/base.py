"""What a checkpoint is to the averaging, and what a format must be able to do."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from tracksided.checkpoints.source import SourceFile


@dataclass(frozen=True, slots=True)
class Record:
    """A run of bytes in a file that holds the elements of one or more tensors."""

    source: SourceFile
    offset: int
    nbytes: int
    crc32: int | None
    """As the file states it; None where the file has no checksum."""


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """A tensor and where its elements lie."""

    dtype: str
    """A key of `tracksided.checkpoints.dtypes.DTYPES`."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    """In elements."""

    record: str
    start: int
    """Bytes from the start of the record to the first element."""

    span: int
    """Bytes from the first element to the end of the last; 0 where there is none."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A complete checkpoint, open for reading. Its tensors are the model's only."""

    source: SourceFile
    format: str
    tensors: Mapping[str, TensorEntry]
    records: Mapping[str, Record]
    """Those that hold model tensors."""

    step: int | None
    """From the content; None where the content does not say."""

    template: object
    """What the format needs to write an output like this one."""

    @property
    def name(self) -> str:
        """The file's name, for messages."""
        return self.source.name


@dataclass(frozen=True, slots=True)
class OutputLayout:
    """Where everything goes in an output that follows a template."""

    nbytes: int
    literals: tuple[tuple[int, bytes], ...]
    """(offset, bytes) known before the average is."""

    records: Mapping[str, int]
    """Offset of each record of `Checkpoint.records`."""

    dropped: tuple[str, ...] = ()
    """Entries of the template that the output leaves out, such as the optimizer's."""


class CheckpointFormat(Protocol):
    """Reads and writes one kind of checkpoint. Adding one is one file and a line in the catalog."""

    @property
    def name(self) -> str:
        """Short name, for messages and provenance."""

    @property
    def suffixes(self) -> tuple[str, ...]:
        """Of the names it reads; the first is that of the outputs it writes."""

    def describe(self, source: SourceFile) -> Checkpoint:
        """Read the structure, prove that the file is complete, and list the model's tensors.

        Raises:
            CheckpointRefused: it is another format, incomplete or not sane.
        """

    def layout(self, template: Checkpoint) -> OutputLayout:
        """Lay out an output with the template's structure."""

    def seal(self, template: Checkpoint, crcs: Mapping[str, int]) -> tuple[tuple[int, bytes], ...]:
        """Return the (offset, bytes) that depend on the CRC-32 of the averaged records."""
