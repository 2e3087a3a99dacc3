"""What a rule says, and what a rule is.

A rule is a frozen dataclass whose fields are its settings. It does no I/O, reads no clock and
uses no random numbers; what it remembers across steps is handed to it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from tracksided.monitors.reading import HostReading
from tracksided.observations import Observation
from tracksided.reports import Severity


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What one rule found at one look. The desk decides whether it is worth an alert."""

    severity: Severity
    """``critical`` where the training, or its machine, is about to be lost."""

    value: float | None
    """What was found; NaN or None where no number says it."""

    threshold: float | None
    """What it was compared with, in the unit of ``value``."""

    message: str
    """What was found, in one line."""

    advice: str
    """What to do about it: whole sentences."""

    rank: int | None = None
    """The rank whose fault it is, None where it is nobody's in particular."""


class StepRule(Protocol):
    """Looks at every committed sampled step."""

    @property
    def name(self) -> str:
        """Name of the rule: its table in the settings, its tag, its heading in the docs."""

    @property
    def enabled(self) -> bool:
        """Whether it looks at all."""

    def check(self, now: Observation, before: Sequence[Observation]) -> Finding | None:
        """Return what is wrong at a step, or None.

        Args:
            now: the newest step.
            before: steps before it, oldest first, a bounded number; may be empty.
        """


class HostRule(Protocol):
    """Looks at every reading of the machine while a run is served."""

    @property
    def name(self) -> str:
        """As in `StepRule`."""

    @property
    def enabled(self) -> bool:
        """As in `StepRule`."""

    def check(self, now: HostReading, before: Sequence[HostReading]) -> Finding | None:
        """Return what is wrong with the machine, or None.

        Args:
            now: the newest reading, with the processes of one run.
            before: readings before it, oldest first, a bounded number; may be empty.
        """
