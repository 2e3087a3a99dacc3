"""What a scrape needs of one run's files: the newest step and how many alerts there are."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tracksided.sinks.history import FILE_NAME
from tracksided.web.alert_log import AlertLog
from tracksided.web.json_lines import Lines, LineTail
from tracksided.web.patience import Patient

ENOUGH_BYTES = 2 << 20  # the longest line fits, and a shorter one always is in it


@dataclass(frozen=True, slots=True)
class Readings:
    """Numbers of one run."""

    newest: Mapping[str, Any] = field(default_factory=dict)
    """Last line of ``history.jsonl``; empty before the first sampled step."""

    alerts: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """(rule, severity) to number."""


class RunReader:
    """Keeps the readings of one run current."""

    def __init__(self, run: str, directory: Path) -> None:
        self._run = run
        self._history = LineTail(directory, FILE_NAME, max_first_bytes=ENOUGH_BYTES)
        self._alerts = AlertLog(run, directory)
        self._patient = Patient(self._read, self._apply)
        self._newest: Mapping[str, Any] = {}

    async def readings(self) -> Readings:
        """Return the readings of now, or the last ones where the files do not answer."""
        await self._patient.refresh()
        return Readings(self._newest, dict(self._alerts.counts))

    def _read(self) -> tuple[Lines, Lines]:
        return self._history.read(), self._alerts.read()

    def _apply(self, found: tuple[Lines, Lines]) -> bool:
        history, alerts = found
        if history.is_new_file:
            self._newest = {}
        own = [line for line in history.objects if line.get("run", self._run) == self._run]
        self._newest = own[-1] if own else self._newest
        self._alerts.apply(alerts)
        return history.has_more or alerts.has_more
