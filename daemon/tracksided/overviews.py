"""When the overview of a run is made: now and then while the run grows, and at its end."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tracksided.jobs import JobFailed, OverviewDone, OverviewJob

logger = logging.getLogger(__name__)

FIRST_AT_STEPS = 5  # sampled steps
GROWTH = 1.25  # then whenever there are so many times more: all overviews cost five last ones
EVERY_S = 60.0  # but not more often


class Pool(Protocol):
    """What this needs of `tracksided.pool.WorkerPool`."""

    @property
    def has_room(self) -> bool:
        """Whether another job would start soon."""

    def submit(self, job: OverviewJob) -> int:
        """Queue a job."""


@dataclass(slots=True)
class Overviews:
    """The overviews of one run, one at a time. One thread."""

    directory: Path
    """The output directory of the run."""

    visualize: tuple[str, ...]
    """The words that ask for something of an overview; empty where nothing does."""

    _ticket: int | None = None
    _drawn_steps: int = 0
    _not_before: float = 0.0
    _is_last: bool = False

    def keep_up(self, pool: Pool, now: float, num_steps: int) -> None:
        """Ask for an overview where the run has grown enough since the one before.

        Args:
            pool: of workers.
            now: monotonic seconds.
            num_steps: sampled steps that are written.
        """
        is_due = num_steps >= max(FIRST_AT_STEPS, self._drawn_steps * GROWTH)
        if is_due and self._ticket is None and now >= self._not_before and pool.has_room:
            self._submit(pool, num_steps)
            self._not_before = now + EVERY_S

    def finish(self, pool: Pool, num_steps: int) -> bool:
        """Ask for the last overview, of all steps; True when there is nothing to wait for."""
        if not self._is_last and self._ticket is None:
            self._is_last = True
            if num_steps:
                self._submit(pool, num_steps)
        return self._is_last and self._ticket is None

    def receive(self, ticket: int, outcome: object) -> bool:
        """Take a worker's answer; False if it is not for these overviews."""
        if ticket != self._ticket:
            return False
        self._ticket = None
        failures = dict(outcome.failures) if isinstance(outcome, OverviewDone) else {}
        if isinstance(outcome, JobFailed):
            failures["overview"] = outcome.reason
        for stage, reason in failures.items():
            logger.error("%s of %s is missing: %s", stage, self.directory, reason)
        return True

    def _submit(self, pool: Pool, num_steps: int) -> None:
        if self.visualize:
            self._ticket = pool.submit(OverviewJob(self.directory, self.visualize))
        self._drawn_steps = num_steps
