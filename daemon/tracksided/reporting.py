"""When the final report of a run is made: once, after its totals."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tracksided.jobs import JobFailed, ReportJob

logger = logging.getLogger(__name__)


class Pool(Protocol):
    """What this needs of `tracksided.pool.WorkerPool`."""

    def submit(self, job: ReportJob) -> int:
        """Queue a job."""


@dataclass(slots=True)
class FinalReport:
    """The final report of one run. One thread.

    States: not asked for -> asked for -> over, whether it was written or failed: a report that
    cannot be made costs itself only.
    """

    directory: Path
    """The output directory of the run."""

    _ticket: int | None = None
    _is_over: bool = False

    def finish(self, pool: Pool) -> bool:
        """Ask for the report; True when there is nothing more to wait for."""
        if self._ticket is None and not self._is_over:
            self._ticket = pool.submit(ReportJob(self.directory))
        return self._is_over

    def receive(self, ticket: int, outcome: object) -> bool:
        """Take a worker's answer; False if it is not for this report."""
        if ticket != self._ticket:
            return False
        self._ticket, self._is_over = None, True
        if isinstance(outcome, JobFailed):
            logger.error("the final report of %s is missing: %s", self.directory, outcome.reason)
        return True
