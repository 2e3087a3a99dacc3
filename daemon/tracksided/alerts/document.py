"""Alerts as JSON objects: the lines of ``alerts.jsonl``."""

import reprlib
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from tracksided.errors import ObservationError
from tracksided.reports import Alert

MAX_SHOWN_CHARS = 120  # of a foreign line, in an error


def alert_document(alert: Alert) -> dict[str, Any]:
    """Return the JSON object of an alert: its fields and its ``id``."""
    return {"id": alert.id, **asdict(alert)}


def read_alert(document: Mapping[str, Any]) -> Alert:
    """Build an alert from its JSON object.

    Raises:
        ObservationError: it is not one.
    """
    match document:
        case {
            "rule": str(rule),
            "severity": ("warning" | "critical") as severity,
            "run": str(run),
            "step": int() | None as step,
            "rank": int() | None as rank,
            "value": int() | float() | None as value,
            "threshold": int() | float() | None as threshold,
            "message": str(message),
            "advice": str(advice),
            "timestamp": int() | float() as timestamp,
        }:
            try:
                return Alert(
                    rule=rule,
                    severity=severity,
                    run=run,
                    step=step,
                    rank=rank,
                    value=None if value is None else float(value),
                    threshold=None if threshold is None else float(threshold),
                    message=message,
                    advice=advice,
                    timestamp=float(timestamp),
                )
            except OverflowError as error:  # JSON has integers beyond any float
                raise ObservationError(f"{_shown(document)} has too large a number") from error
        case _:
            raise ObservationError(f"{_shown(document)} is no alert of ours")


def _shown(document: object) -> str:
    return reprlib.repr(document)[:MAX_SHOWN_CHARS]  # it may nest as deep as it likes
