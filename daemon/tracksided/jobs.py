"""What the daemon and its workers say to each other."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from tracksided.gradient_memory import GradientMemory
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
    previous: tuple[RecordRef, ...] | GradientMemory | None
    """Of the step before: its records where they are not committed yet, else what is kept of
    them; None where there was none."""


@dataclass(frozen=True, slots=True)
class OverviewJob:
    """A whole output directory to look at: what is made of all its steps together."""

    output_dir: Path
    visualize: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ReportJob:
    """The output directory of a run that is over: its final report is to be written."""

    output_dir: Path


@dataclass(frozen=True, slots=True)
class JobDone:
    """The step's folder is on disk; the rest is for the parent to write."""

    report: StepReport
    memory: GradientMemory | None
    """What to keep for the next step; None where the step has no gradients, or they were shed."""


@dataclass(frozen=True, slots=True)
class OverviewDone:
    """The files of an overview are on disk."""

    failures: Mapping[str, str]
    """Stage name to the error that cost its output."""


@dataclass(frozen=True, slots=True)
class ReportDone:
    """The final report is on disk."""


@dataclass(frozen=True, slots=True)
class JobFailed:
    """The job was not done: a step not analysed, or its folder, overview or report not written."""

    reason: str
    is_output: bool
    """Whether the output directory is the cause: then trying again later may work."""


AnyJob: TypeAlias = Job | OverviewJob | ReportJob
Outcome: TypeAlias = JobDone | OverviewDone | ReportDone | JobFailed
