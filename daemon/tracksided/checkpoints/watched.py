"""What the daemon knows of one directory of checkpoints."""

import logging
from dataclasses import dataclass, field
from pathlib import Path

from tracksided.checkpoints.outcomes import AverageEvent, Outcome
from tracksided.checkpoints.placement import placement_for
from tracksided.checkpoints.settling import Settling
from tracksided.checkpoints.watcher import Look
from tracksided.patient_thread import PatientThread

logger = logging.getLogger(__name__)

LOOK_WAIT_S = 1.0  # for a look, which takes milliseconds where the file system answers
MAX_REFUSED = 10  # in the status; the log names all


@dataclass(slots=True)
class Watched:
    """One directory: what was seen in it, what is to be done, and what became of it."""

    directory: Path
    run: str | None
    """Id of the run that announced it; None: the settings name it."""

    settling: Settling = field(default_factory=Settling)
    seen: Look = field(default_factory=lambda: Look(frozenset()))
    settled: Look = field(default_factory=lambda: Look(frozenset()))
    """The part that had settled when that was new for the last time."""

    is_due: bool = False
    is_urgent: bool = False
    is_rotated: bool = False
    """Checkpoints were removed before there were enough of them."""

    crashes: int = 0
    failure: str | None = None
    """Why these checkpoints could not be averaged, when that was tried last."""

    failures: int = 0
    """In a row with these checkpoints, of those that may heal by themselves."""

    retry_at: float | None = None
    last: AverageEvent | None = None
    outcome: Outcome = field(default_factory=Outcome)
    warned: set[tuple[str, str]] = field(default_factory=set)
    defects: set[str] = field(default_factory=set)
    calls: PatientThread = field(default_factory=lambda: PatientThread(LOOK_WAIT_S))
    """What looks at the directory, whose file server may be stopped."""

    @property
    def refused(self) -> tuple[tuple[str, str], ...]:
        """Names and reasons of the last averaging, and of what was not even looked at."""
        return (*self.outcome.refused, *self.seen.refused)

    def tell_silence(self) -> None:
        """Log, once each, that a look takes too long, and that it came to its end."""
        news = self.calls.silence_news()
        if news:
            logger.error("checkpoints in %s: no answer, is the server stopped?", self.directory)
        elif news is not None:
            logger.warning("checkpoints in %s are looked at again", self.directory)

    def see(self, seen: Look, settled: Look | None, minimum: int) -> None:
        """Take in a look; say what is new and wrong in it.

        Args:
            seen: the newest look.
            settled: what has settled of it, None where nothing of that is new.
            minimum: checkpoints that an average needs.
        """
        if settled is not None and settled != self.settled:
            self.settled = settled
            self.crashes, self.failures, self.failure, self.retry_at = 0, 0, None, None
        self._note_rotation(seen, minimum)
        self.seen = seen
        self.warn_of_refused()

    def warn_of_refused(self) -> None:
        """Log each reason once per file."""
        for name, reason in self.refused:
            if (name, reason) not in self.warned:
                self.warned.add((name, reason))
                logger.warning("not averaged: %s: %s", self.directory / name, reason)

    def failed(self, reason: str, seconds: float) -> AverageEvent:
        """Note that an averaging failed, and return that."""
        place = placement_for(self.directory)
        output = place.directory / f"{place.prefix}{self.seen.default_output}"
        self.last = AverageEvent(self.directory, self.run, output, None, (), seconds, reason)
        return self.last

    def status(self, minimum: int, *, is_averaging: bool) -> dict[str, object]:
        """Return what `trackside status` shows of it, as far as it is known here.

        Args:
            minimum: checkpoints that an average needs.
            is_averaging: whether that is going on now.
        """
        last = self.last
        kept = self.seen.most_of_one_kind if self.is_rotated else None
        state = "due" if self.is_due or self.is_urgent else "idle"
        return {
            "directory": str(self.directory),
            "run": self.run,
            "state": "averaging" if is_averaging else state,
            "num_files": len(self.seen.names),
            "outcome": self.outcome.status if kept is None else "waiting",
            "missing": self.outcome.missing if kept is None else minimum - kept,
            "kept": kept,
            "refused": [
                {"name": name, "reason": reason} for name, reason in self.refused[:MAX_REFUSED]
            ],
            "last": None
            if last is None
            else {
                "output": str(last.output),
                "step": last.step,
                "sources": list(last.sources),
                "seconds": last.seconds,
                "error": last.error,
            },
        }

    def _note_rotation(self, seen: Look, minimum: int) -> None:
        """Find out, and say once, that the training removes checkpoints before there are enough."""
        kept = seen.most_of_one_kind
        was_rotated, is_less = self.is_rotated, not self.seen.names <= seen.names
        self.is_rotated = 0 < kept < minimum and (was_rotated or is_less)
        if self.is_rotated and not was_rotated:
            message = "nothing is averaged in %s: %d checkpoints are kept, %d are needed"
            logger.warning(message, self.directory, kept, minimum)
