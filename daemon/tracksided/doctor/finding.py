"""What a check says."""

import enum
from dataclasses import dataclass


class Level(enum.Enum):
    """How bad it is."""

    OK = "ok"
    WARN = "warn"
    """Works now; something will be missing or lost some day."""

    FAIL = "fail"
    """Does not work."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the doctor's report."""

    check: str
    """What was looked at, in a word or two."""

    level: Level
    found: str
    """What is so, with its numbers; begins in lower case."""

    mend: str | None = None
    """What to do; None where nothing is to be done."""


def ok(check: str, found: str) -> Finding:
    """Say that all is well."""
    return Finding(check, Level.OK, found)


def warn(check: str, found: str, mend: str) -> Finding:
    """Say what will go wrong some day; see `Finding` for the texts."""
    return Finding(check, Level.WARN, found, mend)


def fail(check: str, found: str, mend: str) -> Finding:
    """Say what does not work; see `Finding` for the texts."""
    return Finding(check, Level.FAIL, found, mend)


def counted(number: int, noun: str) -> str:
    """Write a number of things for people: ``1 segment``, ``3 segments``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def mebibytes(num_bytes: int) -> str:
    """Write a size for people: ``64 MiB``."""
    return f"{num_bytes / 2**20:,.0f} MiB"
