"""Reads ``alerts.jsonl`` of a run that may still be going on."""

import json
import logging
from pathlib import Path

from tracksided.alerts.document import read_alert
from tracksided.errors import ObservationError, ReportError
from tracksided.reports import Alert

logger = logging.getLogger(__name__)


def read_alerts(path: Path, run: object) -> tuple[Alert, ...]:
    """Return the alerts of one run, oldest first; none where there is no file.

    Lines of other runs in the same directory, and those that are no alert, are passed over.

    Raises:
        ReportError: the file cannot be read.
    """
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise ReportError(f"cannot read {path}: {error.strerror}") from error
    alerts: list[Alert] = []
    for line in lines:
        try:
            alerts.append(read_alert(json.loads(line)))
        except (ValueError, ObservationError) as error:  # also of a line that is still written
            logger.debug("%s: %s", path, error)
    return tuple(alert for alert in alerts if alert.run == run)
