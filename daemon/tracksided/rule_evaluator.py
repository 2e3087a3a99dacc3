"""What the daemon's own process adds to a step: what only it knows, and the alerts."""

import itertools
import logging
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from tracksided.alerts.catalog import AlertSettings
from tracksided.alerts.desk import AlertDesk, Look
from tracksided.alerts.document import alert_document
from tracksided.alerts.finding import Finding
from tracksided.alerts.stalled_trainer import Liveness
from tracksided.convergence.robust import median
from tracksided.errors import ObservationError
from tracksided.monitoring import Monitoring
from tracksided.monitors.document import host_object, host_scalars
from tracksided.monitors.reading import HostReading
from tracksided.observations import MEMORY_STEPS, Observation, observe
from tracksided.reports import Alert, StepReport, Text

logger = logging.getLogger(__name__)

TEXT_GROUP = "Alerts"
INTERVAL_STEPS = 32  # newest distances in time between samples: their median is usual
MIN_INTERVALS = 3


class RuleEvaluator:
    """Watches one run in the daemon's own process. One thread.

    It remembers the newest sampled steps. A daemon that starts anew rebuilds that from
    ``history.jsonl``, and what is raised from the alerts that were written.
    """

    def __init__(
        self,
        run: str,
        settings: AlertSettings,
        *,
        lines: Iterable[Mapping[str, Any]] = (),
        alerts: Iterable[Alert] = (),
        started_at: float = 0.0,
    ) -> None:
        """Take up what is known of the run.

        Args:
            run: its name.
            settings: of the rules.
            lines: of ``history.jsonl``, the newest `MEMORY_STEPS`, oldest first.
            alerts: that were raised before, oldest first.
            started_at: when its trainer attached, in Unix seconds; what came before says nothing
                of its pace.
        """
        self._run = run
        self._desk = AlertDesk()
        self.configure(settings)
        self._memory: deque[Observation] = deque(maxlen=MEMORY_STEPS)
        self._readings: deque[HostReading] = deque(maxlen=MEMORY_STEPS)
        self._moments: deque[float] = deque(maxlen=MEMORY_STEPS)
        """When samples of this trainer were taken, in Unix seconds."""

        self._broken_rules: set[str] = set()
        lines = tuple(lines)
        self.monitoring = Monitoring(lines)
        """What the steps say together."""

        self._resume(tuple(alert for alert in alerts if alert.run == run), lines)
        self._moments.extend(e.timestamp for e in self._memory if e.timestamp >= started_at)

    def configure(self, settings: AlertSettings) -> None:
        """Take other settings of the rules; what they remember stays."""
        self._settings = settings
        self._rules = tuple(rule for rule in settings.step_rules if rule.enabled)
        self._host_rules = tuple(rule for rule in settings.host_rules if rule.enabled)
        self._desk.cooldown_s = settings.cooldown_seconds
        self._desk.clear_after = settings.clear_after

    def complete(self, report: StepReport, reading: HostReading | None) -> StepReport:
        """Return the report with all that this process knows, and the alerts that it raises.

        Call it once for each step, in the order in which they are committed.

        Args:
            report: as the records and their analysis have it.
            reading: of the machine, with this run's processes; None where there is none.
        """
        report = add_machine(report, reading)
        failures = dict(report.history["failures"])
        alerts: tuple[Alert, ...] = ()
        try:
            report = self.monitoring.add(report)
            if self._settings.enabled:
                now = observe(report.history)
                self._moments.append(now.timestamp)
                alerts = self.look(now, failures)
        except ObservationError as error:  # a record that says no time, for example
            logger.warning("step %d tells the rules nothing: %s", report.step, error)
            failures["watch"] = str(error)
        history = {
            **report.history,
            "alerts": [alert_document(alert) for alert in alerts],
            "failures": failures,
        }
        texts = tuple(alert_text(alert, report.step) for alert in alerts)
        return replace(
            report, history=history, texts=(*report.texts, *texts), alerts=(*report.alerts, *alerts)
        )

    def look(self, now: Observation, failures: dict[str, str] | None = None) -> tuple[Alert, ...]:
        """Ask every rule about a step; what lies ahead of it belongs to an abandoned try."""
        if self._memory and now.step <= self._memory[-1].step:
            kept = [entry for entry in self._memory if entry.step < now.step]
            self._memory = deque(kept, maxlen=MEMORY_STEPS)
            self._desk.forget(rule.name for rule in self._rules)
        before = tuple(self._memory)
        look = Look(run=self._run, step=now.step, timestamp=now.timestamp)
        alerts = [
            self._judge(rule.name, look, partial(rule.check, now, before), failures)
            for rule in self._rules
        ]
        self._memory.append(now)
        return tuple(alert for alert in alerts if alert is not None)

    def look_at_machine(self, reading: HostReading) -> tuple[Alert, ...]:
        """Return the alerts that a reading raises; the one before, again, raises none."""
        if not self._settings.enabled or (
            self._readings and reading.timestamp == self._readings[-1].timestamp
        ):
            return ()
        before = tuple(self._readings)
        self._readings.append(reading)
        look = self._moment(reading.timestamp)
        alerts = [
            self._judge(rule.name, look, partial(rule.check, reading, before))
            for rule in self._host_rules
        ]
        return tuple(alert for alert in alerts if alert is not None)

    def look_at_trainer(self, silent_s: float, wall_time: float) -> Alert | None:
        """Return an alert if a live trainer makes no steps any more.

        Args:
            silent_s: since its newest step arrived.
            wall_time: Unix seconds.
        """
        rule = self._settings.stalled_trainer
        if not (self._settings.enabled and rule.enabled):
            return None
        gaps = [b - a for a, b in itertools.pairwise(self._moments)]
        is_known = len(gaps) >= MIN_INTERVALS
        liveness = Liveness(
            last_step=self._last_step(),
            silent_s=silent_s,
            interval_s=median(gaps[-INTERVAL_STEPS:]) if is_known else None,
            longest_s=max(gaps, default=0.0),
        )
        return self._judge(rule.name, self._moment(wall_time), partial(rule.check, liveness))

    def note_average(self, error: str | None, wall_time: float) -> Alert | None:
        """Return an alert if the run's checkpoints could not be averaged.

        Args:
            error: why not, None where they were.
            wall_time: Unix seconds.
        """
        rule = self._settings.averaging_failed
        if not (self._settings.enabled and rule.enabled):
            return None
        look = Look(run=self._run, step=None, timestamp=wall_time, clear_after=1)
        return self._judge(rule.name, look, partial(rule.check, error))

    def status(self) -> list[dict[str, Any]]:
        """Return what `trackside status` shows: all that is raised or has not calmed down."""
        return [
            {**alert_document(standing.alert), "state": standing.phase.value}
            for standing in self._desk.active
        ]

    def _resume(self, known: tuple[Alert, ...], lines: Iterable[Mapping[str, Any]]) -> None:
        """Go through the remembered steps again; every alert of theirs is known already."""
        self._desk.restore(known)
        by_moment: dict[tuple[int | None, float], list[Alert]] = {}
        for alert in known:
            by_moment.setdefault((alert.step, alert.timestamp), []).append(alert)
        for line in lines:
            try:
                now = observe(line)
            except ObservationError as error:
                logger.debug("a line of history.jsonl tells the rules nothing: %s", error)
                continue
            self.look(now, {})
            self._desk.restore(by_moment.get((now.step, now.timestamp), ()))
        self._desk.adopt(known)

    def _judge(
        self,
        rule: str,
        look: Look,
        check: Callable[[], Finding | None],
        failures: dict[str, str] | None = None,
    ) -> Alert | None:
        """Ask a rule; one that fails costs what it would have said, and nothing else."""
        try:
            finding = check()
        except Exception as error:
            if failures is not None:
                failures[f"alerts.{rule}"] = f"{type(error).__name__}: {error}"
            if rule not in self._broken_rules:
                self._broken_rules.add(rule)
                logger.exception("alert rule %s fails after step %s", rule, self._last_step())
            finding = None
        return self._desk.take(rule, finding, look)

    def _moment(self, wall_time: float) -> Look:
        return Look(run=self._run, step=None, timestamp=wall_time)

    def _last_step(self) -> int:
        return self._memory[-1].step if self._memory else 0


def add_machine(report: StepReport, reading: HostReading | None) -> StepReport:
    """Return the report with what the machine was doing."""
    if reading is None:
        return replace(report, history={**report.history, "host": None})
    return replace(
        report,
        scalars=(*report.scalars, *host_scalars(reading, report.step)),
        history={**report.history, "host": host_object(reading)},
    )


def alert_text(alert: Alert, step: int) -> Text:
    """Return what TensorBoard shows of an alert.

    Args:
        alert: to be shown.
        step: under which it stands: its own, or the newest where it has none.
    """
    where = "" if alert.rank is None else f", rank {alert.rank}"
    body = f"**{alert.severity}** at step {step}{where}: {alert.message}\n\n{alert.advice}"
    return Text(f"{TEXT_GROUP}/{alert.rule}", body, step)
