"""When the rules of a run are asked, and where its alerts go: log, files, channels."""

import logging
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from tracksided.errors import OutputError, OutputPending
from tracksided.monitors.reading import HostReading
from tracksided.reports import Alert, StepReport, Text
from tracksided.rule_evaluator import RuleEvaluator, alert_text

logger = logging.getLogger(__name__)

LOOK_EVERY_S = 1.0  # at a trainer that is silent
MAX_GAP_S = 30.0  # between two looks; after more the daemon was stopped, and knows nothing


class AlertNotes(Protocol):
    """What this needs of `tracksided.patient_outputs.PatientOutputs`."""

    def note_alerts(self, alerts: Sequence[Alert], texts: Sequence[Text]) -> None:
        """Note alerts durably, or raise `OutputError`."""


class RunAlerting:
    """Raises the alerts of one run. One thread.

    An alert is told to the channels once it is committed. A kill between the two costs the
    message, never the line in ``alerts.jsonl``.
    """

    def __init__(
        self,
        evaluator: RuleEvaluator,
        outputs: AlertNotes,
        tell: Callable[[Alert], None],
        wall_clock: Callable[[], float],
    ) -> None:
        """Raise nothing yet.

        Args:
            evaluator: what is remembered of the run, and its rules.
            outputs: where alerts are committed.
            tell: sends a committed alert to the channels; does not wait.
            wall_clock: Unix time in seconds.
        """
        self.evaluator = evaluator
        self._outputs = outputs
        self._tell = tell
        self._wall_clock = wall_clock
        self._uncommitted: list[Alert] = []
        self._unwritten: list[Alert] = []
        self._num_pending = 0  # of them, handed over and not answered for
        self._problem: str | None = None
        self._newest_step = 0
        self._moved_at: float | None = None
        self._looked_at = 0.0

    def complete(self, report: StepReport, reading: HostReading | None) -> StepReport:
        """Return the report of a step with all that is to be written of it."""
        report = self.evaluator.complete(report, reading)
        self._uncommitted += report.alerts
        return report

    def committed(self, step: int) -> None:
        """Tell of a step's alerts: it is on disk now."""
        ready = [alert for alert in self._uncommitted if alert.step == step]
        self._uncommitted = [alert for alert in self._uncommitted if alert.step != step]
        for alert in ready:
            self._say(alert)

    def look_at_machine(self, reading: HostReading) -> None:
        """Raise what a reading of the machine gives reason for."""
        self._raise(self.evaluator.look_at_machine(reading))

    def note_average(self, error: str | None) -> None:
        """Raise an alert if the run's checkpoints could not be averaged."""
        alert = self.evaluator.note_average(error, self._wall_clock())
        self._raise(() if alert is None else (alert,))

    def look_at_trainer(
        self, newest_step: int, now: float, is_training: Callable[[], bool]
    ) -> None:
        """Raise an alert if a live trainer makes no steps any more.

        Args:
            newest_step: that has arrived, committed or not.
            now: monotonic seconds.
            is_training: whether a trainer runs and has not closed its session.
        """
        if newest_step != self._newest_step or self._moved_at is None:
            self._newest_step, self._moved_at = newest_step, now
        if now - self._looked_at < LOOK_EVERY_S:
            return
        if now - self._looked_at > MAX_GAP_S or not is_training():
            self._moved_at = now
        self._looked_at = now
        alert = self.evaluator.look_at_trainer(now - self._moved_at, self._wall_clock())
        self._raise(() if alert is None else (alert,))

    def status(self) -> list[dict[str, Any]]:
        """Return what `trackside status` shows."""
        return self.evaluator.status()

    def _raise(self, alerts: Sequence[Alert]) -> None:
        """Write alerts that belong to no step, and those that could not be written before."""
        self._unwritten += alerts
        if not self._unwritten:
            return
        num_alerts = self._num_pending or len(self._unwritten)
        batch = self._unwritten[:num_alerts]
        self._num_pending = 0
        texts = [alert_text(alert, self._newest_step) for alert in batch]
        try:
            self._outputs.note_alerts(batch, texts)
        except OutputPending:
            self._num_pending = num_alerts
            return
        except OutputError as error:
            if str(error) != self._problem:
                self._problem = str(error)
                logger.error("an alert is not noted yet: %s", error)  # noqa: TRY400 - no traceback for the user
            return
        del self._unwritten[:num_alerts]
        self._problem = None
        for alert in batch:
            self._say(alert)

    def _say(self, alert: Alert) -> None:
        where = "" if alert.step is None else f" at step {alert.step}"
        logger.warning("run %s%s: %s: %s", alert.run, where, alert.rule, alert.message)
        self._tell(alert)
