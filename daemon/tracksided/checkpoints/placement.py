"""Where an average lies: with its sources, or beside a directory that a trainer lists whole."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

HERE = "."

_NUMBERED = re.compile(r"checkpoint_\d+")
_RANDOM_STATE = re.compile(r"random_states_\d+\.pkl")


@dataclass(frozen=True, slots=True)
class Placement:
    """Where the average of a directory lies, its temporary files too."""

    directory: Path
    prefix: str = ""
    """What its name begins with there."""

    sources_in: str = HERE
    """The directory of the sources, as seen from there; empty where nothing can lie beside it."""


def placement_for(sources: Path) -> Placement:
    """Decide where the average of the checkpoints in a directory lies.

    With them, except where Accelerate names its checkpoints by itself
    (``ProjectConfiguration(automatic_checkpoint_naming=True)``): it takes a number from every
    name in their directory, hidden ones too, ends the training where one has none, and deletes or
    loads what comes first or last. There the average lies beside the directory.

    Args:
        sources: directory that holds the checkpoints; it may be gone.
    """
    if not _is_numbered_by_accelerate(sources):
        return Placement(sources)
    real = sources.resolve()
    return Placement(real.parent, f"{real.name}-", real.name)


def output_path(sources: Path, output: str, sources_in: str) -> Path:
    """Return where an average lies that was made of the checkpoints in a directory.

    Args:
        sources: directory that holds them.
        output: name of the average, as its provenance has it.
        sources_in: as its provenance has it.
    """
    return (sources if sources_in == HERE else sources.resolve().parent) / output


def _is_numbered_by_accelerate(directory: Path) -> bool:
    """Whether any checkpoint in it has both the name and the file that Accelerate gives all."""
    return any(
        _RANDOM_STATE.fullmatch(name)
        for checkpoint in _names(directory)
        if _NUMBERED.fullmatch(checkpoint)
        for name in _names(directory / checkpoint)
    )


def _names(directory: Path) -> Iterator[str]:
    """List a directory; nothing where it is none, cannot be read, or is being deleted."""
    try:
        with os.scandir(directory) as entries:
            yield from [entry.name for entry in entries]
    except OSError:
        return
