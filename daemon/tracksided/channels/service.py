"""The daemon's side of the channels: a child process for each alert, and no wait for it."""

import logging
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tracksided.alerts.catalog import AlertSettings
from tracksided.alerts.document import alert_document
from tracksided.channels.outcome import Outcome
from tracksided.checkpoints.process import ChildProcess
from tracksided.reports import Alert
from tracksided.sinks.json_file import plain_object

logger = logging.getLogger(__name__)

COMMAND = (sys.executable, "-P", "-m", "tracksided.channels.child")
MAX_QUEUED = 100  # alerts; a rule raises one a cause, so more are a flood
START_S = 30.0  # besides what channels may take: a polite child starts slowly on a full machine


@dataclass(slots=True)
class _Running:
    child: ChildProcess
    deadline: float


class AlertSender:
    """Sends alerts one after the other. One thread calls it; no call waits for a channel."""

    def __init__(self, settings: AlertSettings, command: Sequence[str] = COMMAND) -> None:
        self._settings = settings
        self._command = tuple(command)
        self._queue: deque[Alert] = deque()
        self._running: _Running | None = None
        self._said: set[tuple[str, str | None]] = set()
        self.num_dropped = 0
        """Alerts that no channel was told of, because too many waited."""

    @property
    def is_busy(self) -> bool:
        """Whether an alert is being sent or waits for it."""
        return self._running is not None or bool(self._queue)

    def configure(self, settings: AlertSettings) -> None:
        """Take other channels from the next alert on."""
        self._settings = settings
        self._said.clear()

    def tell(self, alert: Alert) -> None:
        """Take an alert to be sent, where there is a channel."""
        if not (self._settings.apprise or self._settings.command):
            return
        if len(self._queue) >= MAX_QUEUED:
            self.num_dropped += 1
            if self.num_dropped == 1:
                logger.warning("%d alerts wait for their channels; no more are taken", MAX_QUEUED)
            return
        self._queue.append(alert)

    def poll(self, now: float) -> tuple[Outcome, ...]:
        """Start or collect a child; return what became of an alert whose sending has ended.

        Args:
            now: monotonic seconds.
        """
        outcomes: tuple[Outcome, ...] = ()
        if self._running is not None:
            outcomes = self._collect(self._running, now)
        elif self._queue:
            outcomes = self._start(self._queue.popleft(), now)
        for outcome in outcomes:
            if outcome.error is not None:
                self._complain(outcome)
        return outcomes

    def close(self) -> None:
        """End a running child; what waits is not sent."""
        if self._running is not None:
            self._running.child.end()
            self._running = None
        if self._queue:
            logger.warning("%d alerts were not sent to their channels", len(self._queue))

    def _start(self, alert: Alert, now: float) -> tuple[Outcome, ...]:
        settings = self._settings
        request: dict[str, object] = {
            "alert": plain_object(alert_document(alert)),
            "apprise": list(settings.apprise),
            "command": list(settings.command),
            "command_seconds": settings.command_seconds,
        }
        try:
            child = ChildProcess(request, self._command, what="alert")
        except OSError as error:
            return (Outcome("channels", f"no process can be started: {error}"),)
        seconds = START_S + settings.command_seconds + START_S * len(settings.apprise)
        self._running = _Running(child, now + seconds)
        return ()

    def _collect(self, running: _Running, now: float) -> tuple[Outcome, ...]:
        is_running = running.child.is_running()
        if is_running and now < running.deadline:
            return ()
        self._running = None
        said = running.child.last_message()
        outcomes = _outcomes(said)
        if not outcomes:
            reason = "did not answer in time" if is_running else running.child.failure()
            outcomes = (Outcome("channels", reason),)
        running.child.end()
        return outcomes

    def _complain(self, outcome: Outcome) -> None:
        """Log a failure, each once."""
        key = (outcome.channel, outcome.error)
        if key not in self._said:
            self._said.add(key)
            logger.warning("alert not sent by %s: %s", outcome.channel, outcome.error)


def _outcomes(message: Mapping[str, object]) -> tuple[Outcome, ...]:
    match message:
        case {"outcomes": list(entries)}:
            return tuple(
                Outcome(str(entry[0]), None if entry[1] is None else str(entry[1]))
                for entry in entries
            )
        case _:
            return ()
