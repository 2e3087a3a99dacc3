"""What became of an alert at one channel, and what a channel is called where others can read."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Outcome:
    """One channel, one alert."""

    channel: str
    """Its title; never the URL, which holds secrets."""

    error: str | None
    """Why it was not sent, None where it was."""


def url_title(url: str) -> str:
    """Return the title of an Apprise URL: its scheme, all that is no secret."""
    scheme, separator, _ = url.partition("://")
    return f"apprise {scheme}" if separator else "apprise"


def command_title(command: Sequence[str]) -> str:
    """Return the title of a command: its program."""
    return f"command {command[0]}"
