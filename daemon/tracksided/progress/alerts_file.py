"""Reads ``alerts.jsonl`` of a run that may still be going on."""

import logging
import os
from pathlib import Path

from tracksided.alerts.document import read_alert
from tracksided.errors import ObservationError, ReportError
from tracksided.reports import Alert
from tracksided.sinks.json_file import open_regular, parse_json
from tracksided.sinks.line_file import bounded_lines

logger = logging.getLogger(__name__)


def read_alerts(path: Path, run: object) -> tuple[Alert, ...]:
    """Return the alerts of one run, oldest first; none where there is no file.

    Lines of other runs in the same directory, and those that are no alert, are passed over.

    Raises:
        ReportError: the file cannot be read.
    """
    alerts: list[Alert] = []
    try:
        with os.fdopen(open_regular(path, os.O_RDONLY), "rb") as file:
            for line in bounded_lines(file):
                try:
                    alerts.append(read_alert(parse_json(line)))
                except (ValueError, ObservationError) as error:  # or it is still written
                    logger.debug("%s: %s", path, error)
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise ReportError(f"cannot read {path}: {error.strerror}") from error
    return tuple(alert for alert in alerts if alert.run == run)
