"""``alerts.jsonl``: one line per alert.

The file follows what is committed elsewhere: the alerts of a step stand in its line of
``history.jsonl``, those that belong to no step in ``run.json``. What a kill kept from here is
added when the directory is opened again; an alert's ``id`` keeps it from being added twice.
"""

import logging
from collections.abc import Iterable
from pathlib import Path

from tracksided.alerts.document import alert_document, read_alert
from tracksided.errors import ObservationError, OutputError
from tracksided.reports import Alert
from tracksided.sinks.json_file import encode
from tracksided.sinks.line_file import LineFile

logger = logging.getLogger(__name__)

FILE_NAME = "alerts.jsonl"


class AlertsFile:
    """Appends alerts, each once. One thread, one process.

    The file is there from the start, so that it can be followed before the first alert. An alert
    that cannot be written now stays in memory and is tried again: it is committed already, and
    must not hold up the steps that follow.
    """

    def __init__(self, directory: Path) -> None:
        """Open or make the file, and read what is there.

        Raises:
            OutputError: the file cannot be read or made.
        """
        path = directory / FILE_NAME
        self._file = LineFile(path)
        self._alerts: dict[str, Alert] = {}
        self._pending: list[Alert] = []
        self._problem: str | None = None
        for number, document in self._file.lines():
            try:
                alert = read_alert(document)
            except ObservationError as error:
                logger.warning("%s: line %d is left as it is: %s", path, number, error)
                continue
            self._alerts[alert.id] = alert

    @property
    def alerts(self) -> tuple[Alert, ...]:
        """All that were raised in this directory, oldest first."""
        return tuple(self._alerts.values())

    def add(self, alerts: Iterable[Alert]) -> None:
        """Add those that are not there yet; what cannot be written is kept for later."""
        for alert in alerts:
            if alert.id not in self._alerts:
                self._alerts[alert.id] = alert
                self._pending.append(alert)
        self.flush()

    def flush(self) -> None:
        """Try again what could not be written."""
        if not self._pending:
            return
        try:
            self._file.append(b"".join(encode(alert_document(alert)) for alert in self._pending))
        except OutputError as error:
            if str(error) != self._problem:
                self._problem = str(error)
                logger.error("%s; it is tried again", error)  # noqa: TRY400 - no traceback for the user
            return
        self._pending.clear()
        self._problem = None

    def close(self) -> None:
        """Write what is left, and close the file."""
        self.flush()
        self._file.close()
