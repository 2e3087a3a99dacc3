"""What a checkpoint is to the averaging, and what a format must be able to do."""

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar

from tracksided.checkpoints.refusals import SourceRefused
from tracksided.checkpoints.source import SourceDirectory, SourceFile

_Template = TypeVar("_Template")


@dataclass(frozen=True, slots=True)
class Record:
    """A run of bytes in a file that holds the elements of one or more tensors."""

    source: SourceFile
    """The file it lies in."""

    offset: int
    """Bytes from the start of the file."""

    nbytes: int
    """Its length."""

    crc32: int | None
    """As the file states it; None where the file has no checksum."""


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """A tensor and where its elements lie."""

    dtype: str
    """A key of `tracksided.checkpoints.dtypes.DTYPES`."""

    shape: tuple[int, ...]
    """As the loader sees it; empty for a single number."""

    strides: tuple[int, ...]
    """In elements."""

    record: str
    """Key of `Checkpoint.records`."""

    start: int
    """Bytes from the start of the record to the first element."""

    span: int
    """Bytes from the first element to the end of the last; 0 where there is none."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A complete checkpoint, open for reading. Its tensors are the model's only."""

    sources: tuple[SourceFile, ...]
    """The files that hold its tensors; at least one, of one owner."""

    format: str
    """`CheckpointFormat.name` of what read it."""

    tensors: Mapping[str, TensorEntry]
    """Key in the state dict to where its elements lie."""

    records: Mapping[str, Record]
    """Those that hold model tensors."""

    step: int | None
    """From the content; None where the content does not say."""

    template: object
    """What the format needs to write an output like this one."""

    is_average: bool = False
    """It says itself that it was made here; not every format has a place for that."""

    @property
    def name(self) -> str:
        """The name of its file or directory, for messages."""
        return self.sources[0].owner.name

    @property
    def nbytes(self) -> int:
        """Bytes of all its files with tensors."""
        return sum(source.nbytes for source in self.sources)

    @property
    def mtime_ns(self) -> int:
        """When the last of them was written."""
        return max(source.identity.mtime_ns for source in self.sources)

    def refusal(self, reason: str) -> SourceRefused:
        """Make the error that costs this checkpoint its place.

        Args:
            reason: what is wrong with it, for the user.
        """
        return SourceRefused(self.sources[0].owner, reason)

    def template_as(self, kind: type[_Template]) -> _Template:
        """Return the template to the format that made it.

        Args:
            kind: of the format's own templates.

        Raises:
            TypeError: another format has read this checkpoint.
        """
        if not isinstance(self.template, kind):
            raise TypeError(f"{self.name} was read as {self.format}, by another format than this")
        return self.template


@dataclass(frozen=True, slots=True)
class Place:
    """A position in the output: which of its files, and where in it."""

    file: int
    """Index in `OutputLayout.files`."""

    offset: int
    """Bytes from the start of the file."""


@dataclass(frozen=True, slots=True)
class Patch:
    """Bytes to be written when the average is known."""

    file: int
    """Index in `OutputLayout.files`."""

    offset: int
    """Bytes from the start of the file."""

    content: bytes
    """What is written there."""


@dataclass(frozen=True, slots=True)
class OutputFile:
    """One file of an output."""

    name: str
    """Relative to the output directory; empty where the output is a single file."""

    nbytes: int
    """Its whole length."""

    like: os.stat_result
    """Of the file whose owner and mode it takes."""

    literals: tuple[tuple[int, bytes], ...] = ()
    """(offset, bytes) known before the average is."""

    copied: tuple[tuple[int, SourceFile], ...] = ()
    """(offset, what is taken over as it is)."""


@dataclass(frozen=True, slots=True)
class OutputLayout:
    """Where everything goes in an output that follows a template."""

    files: tuple[OutputFile, ...]
    """One without a name, or those of a directory."""

    records: Mapping[str, Place]
    """Of each record of `Checkpoint.records`."""

    directory_like: os.stat_result | None = None
    """Of the directory whose owner and mode an output directory takes."""

    dropped: tuple[str, ...] = ()
    """Entries of the template that the output leaves out, such as the optimizer's."""

    is_in_order: bool = False
    """Whether each file can be written from front to back, because nothing has to be sealed."""

    @property
    def nbytes(self) -> int:
        """Bytes of all files."""
        return sum(file.nbytes for file in self.files)


class CheckpointFormat(Protocol):
    """Writes one kind of checkpoint. Adding one is one file and a line in the catalog.

    What it refuses need not name the checkpoint: who asks it does, with `refused_as`.
    """

    @property
    def name(self) -> str:
        """Short name, for messages and provenance."""

    def layout(self, template: Checkpoint) -> OutputLayout:
        """Lay out an output with the template's structure.

        Args:
            template: the newest checkpoint: keys, order and metadata are taken from it.

        Raises:
            CheckpointRefused: it cannot be written again.
        """

    def seal(self, template: Checkpoint, crcs: Mapping[str, int]) -> tuple[Patch, ...]:
        """Return the bytes that depend on the CRC-32 of the averaged records.

        Args:
            template: as in `layout`.
            crcs: key of each averaged record to the CRC-32 of its new bytes.

        Raises:
            CheckpointRefused: the template is another one by now.
        """

    def metrics(self, checkpoint: Checkpoint) -> Mapping[str, float]:
        """Return what the content says this checkpoint scored, by name; NaN stays NaN.

        Args:
            checkpoint: one of this format, still open.

        Raises:
            CheckpointRefused: what says so is damaged.
        """


class FileFormat(CheckpointFormat, Protocol):
    """A checkpoint that is one file."""

    @property
    def suffixes(self) -> tuple[str, ...]:
        """Of the names it reads; the first is that of the outputs it writes."""

    def describe(self, source: SourceFile) -> Checkpoint:
        """Read the structure, prove that the file is complete, and list the model's tensors.

        Args:
            source: the file; the checkpoint keeps it open.

        Raises:
            CheckpointRefused: it is another format, incomplete or not sane.
        """


class DirectoryFormat(CheckpointFormat, Protocol):
    """A checkpoint that is a directory."""

    def is_part(self, name: str) -> bool:
        """Whether an entry of this name makes a directory one of this format, complete or not.

        Args:
            name: of the entry.
        """

    def looks_finished(self, names: Collection[str]) -> bool:
        """Whether what is written last is among the entries of a directory of this format.

        Args:
            names: of all entries.
        """

    def describe(self, directory: SourceDirectory) -> Checkpoint:
        """Open and read all files; see `FileFormat.describe`.

        Args:
            directory: the checkpoint; it stays open as long as its files are read.
        """
