"""What the daemon and its workers say to each other."""

from dataclasses import dataclass
from pathlib import Path

from tracksided.reports import StepReport


@dataclass(frozen=True, slots=True)
class RecordRef:
    """Where one rank's record of a step lies."""

    segment: Path
    start: int


@dataclass(frozen=True, slots=True)
class Job:
    """One step to analyse, the lowest rank first."""

    records: tuple[RecordRef, ...]
    output_dir: Path
    with_pictures: bool
    with_statistics: bool
    shed: str | None


@dataclass(frozen=True, slots=True)
class JobDone:
    """The step's folder is on disk; the rest is for the parent to write."""

    report: StepReport


@dataclass(frozen=True, slots=True)
class JobFailed:
    """The step could not be analysed, or its folder not written."""

    reason: str
    is_output: bool
    """Whether the output directory is the cause: then trying again later may work."""
