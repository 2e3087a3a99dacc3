"""What can be plugged into the monitoring, and what it is asked and says.

Monitors run in a child process (`tracksided.monitors.child`): each looks at one source and adds
what it finds to the reading. They may keep what they need from one reading to the next.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from tracksided.monitors.reading import HostReading


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """A question: take one reading."""

    ranks: Mapping[int, int] = field(default_factory=dict)
    """Process id, as this daemon sees it, to rank."""

    paths: tuple[str, ...] = ()
    """Directories whose file systems must have room."""

    without: frozenset[str] = frozenset()
    """Names of monitors that are left out."""


def together(questions: Iterable[Watched]) -> Watched:
    """Return one question for all of these.

    Args:
        questions: one per run.
    """
    ranks: dict[int, int] = {}
    paths: dict[str, None] = {}
    without: frozenset[str] = frozenset()
    for question in questions:
        ranks |= question.ranks
        paths |= dict.fromkeys(question.paths)
        without |= question.without
    return Watched(ranks=ranks, paths=tuple(paths), without=without)


@dataclass(frozen=True, slots=True)
class Began:
    """Said before a monitor looks at its source: whoever hangs or dies then has a name."""

    monitor: str
    """Its name."""


class Monitor(Protocol):
    """Looks at one source."""

    @property
    def name(self) -> str:
        """One word."""

    def read(self, watched: Watched, reading: HostReading) -> HostReading:
        """Return the reading with what this source knows; unknown stays None.

        Args:
            watched: what is asked.
            reading: with what the monitors before this one found.
        """
