"""All checkpoint formats; reading this shows what can be averaged."""

from collections.abc import Collection, Mapping
from pathlib import PurePath

from tracksided.checkpoints.formats.base import (
    Checkpoint,
    CheckpointFormat,
    DirectoryFormat,
    FileFormat,
)
from tracksided.checkpoints.formats.distributed import DistributedCheckpoint
from tracksided.checkpoints.formats.huggingface import HuggingFace
from tracksided.checkpoints.formats.nested import ACCELERATE_STATE
from tracksided.checkpoints.formats.safetensors import Safetensors
from tracksided.checkpoints.formats.torch_zip import TorchZip
from tracksided.checkpoints.formats.unread import unread_kind
from tracksided.checkpoints.refusals import refused_as
from tracksided.checkpoints.source import SourceDirectory, SourceFile
from tracksided.errors import CheckpointRefused

FILE_FORMATS: tuple[FileFormat, ...] = (TorchZip(), Safetensors())
DIRECTORY_FORMATS: tuple[DirectoryFormat, ...] = (DistributedCheckpoint(), HuggingFace())


def format_of(name: str) -> FileFormat | None:
    """Return the format that reads files of this name, or None."""
    suffix = suffix_of(name).lower()
    return next((entry for entry in FILE_FORMATS if suffix in entry.suffixes), None)


def suffix_of(name: str) -> str:
    """Return the suffix that a format reads, as the name has it, or an empty text.

    It may be a double one: ``.pth.tar``, as timm writes torch's ordinary files.
    """
    path = PurePath(name)
    for suffix in ("".join(path.suffixes[-2:]), path.suffix):
        if any(suffix.lower() in entry.suffixes for entry in FILE_FORMATS):
            return suffix
    return ""


def format_named(name: str) -> CheckpointFormat:
    """Return the format with a name, as `Checkpoint.format` states it."""
    known: tuple[CheckpointFormat, ...] = (*FILE_FORMATS, *DIRECTORY_FORMATS)
    return next(entry for entry in known if entry.name == name)


def directory_format_of(names: Collection[str]) -> DirectoryFormat | None:
    """Return the format of a directory with these entries, or None.

    Models in directories of their own are known by what Accelerate writes behind them.
    """
    found: DirectoryFormat | None = next(
        (entry for entry in DIRECTORY_FORMATS if any(entry.is_part(name) for name in names)), None
    )
    if found is None and ACCELERATE_STATE in names and unread_kind(names) is None:
        return HuggingFace()
    return found


def describe_as(name: str, source: SourceFile | SourceDirectory) -> Checkpoint:
    """Read the structure in the format with a name, whatever the source is called.

    Raises:
        SourceRefused: it is incomplete or not sane.
    """
    with refused_as(source):
        if isinstance(source, SourceDirectory):
            return next(entry for entry in DIRECTORY_FORMATS if entry.name == name).describe(source)
        return next(entry for entry in FILE_FORMATS if entry.name == name).describe(source)


def describe(source: SourceFile | SourceDirectory) -> Checkpoint:
    """Read the structure of a file or directory of any format.

    Raises:
        SourceRefused: no format reads it, or a format's `CheckpointRefused` with its name: it is
            incomplete or not sane.
    """
    with refused_as(source):
        if isinstance(source, SourceDirectory):
            directory_format = directory_format_of(source.names)
            if directory_format is None:
                raise CheckpointRefused(
                    unread_kind(source.names)
                    or "holds no weights that are read here, nor does it have "
                    f"{ACCELERATE_STATE}, which Accelerate writes behind models in directories"
                )
            return directory_format.describe(source)
        file_format = format_of(source.name)
        if file_format is None:
            raise CheckpointRefused("no format is known for this name")
        return file_format.describe(source)


def stated_metrics(checkpoint: Checkpoint) -> Mapping[str, float]:
    """Return what the content of a checkpoint says it scored; see `CheckpointFormat.metrics`.

    Raises:
        SourceRefused: what says so is damaged.
    """
    with refused_as(checkpoint):
        return format_named(checkpoint.format).metrics(checkpoint)
