"""Checkpoints that could not be averaged."""

from dataclasses import dataclass
from typing import ClassVar

from tracksided.alerts.finding import Finding

ADVICE = (
    "The average before it stays. Mend what the message names; with the next complete checkpoint "
    "it is tried again, without one too where the system refused (no room), or run "
    "`trackside average DIR`."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class AveragingFailed:
    """The daemon tried to average the run's checkpoints, and could not."""

    name: ClassVar[str] = "averaging_failed"

    enabled: bool = True

    def check(self, error: str | None) -> Finding | None:
        """Take the outcome of one averaging: None where it went well."""
        if error is None:
            return None
        return Finding(
            severity="warning",
            value=None,
            threshold=None,
            message=" ".join(f"checkpoints could not be averaged: {error}".split()),
            advice=ADVICE,
        )
