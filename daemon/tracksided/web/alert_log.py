"""The alerts of one run: how many of each rule, and the newest ones."""

from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tracksided.web.fields import text
from tracksided.web.json_lines import Lines, LineTail

FILE_NAME = "alerts.jsonl"
KEPT_ALERTS = 100
MAX_CHARS = 4000  # of a text that is shown; ours are shorter
MAX_RULES = 200  # times severities; a file of foreign make does not grow the metrics without bound
SHOWN = (
    *("id", "rule", "severity", "step", "rank", "value", "threshold"),
    *("message", "advice", "timestamp"),
)


class AlertLog:
    """Follows ``alerts.jsonl``; a run without the file has no alerts."""

    def __init__(self, run: str, directory: Path) -> None:
        self._run = run
        self._tail = LineTail(directory, FILE_NAME)
        self.newest: deque[dict[str, Any]] = deque(maxlen=KEPT_ALERTS)
        """With the names of `SHOWN`; the newest comes last."""

        self.counts: dict[tuple[str, str], int] = {}
        """(rule, severity) to number."""

    def read(self) -> Lines:
        """Read what was added; for a thread.

        Raises:
            OSError: the file cannot be read.
        """
        return self._tail.read()

    def apply(self, lines: Lines) -> None:
        """Take in what `read` found."""
        if lines.is_new_file:
            self.newest.clear()
            self.counts.clear()
        for line in lines.objects:
            if line.get("run", self._run) == self._run:
                self._count(line)
                self.newest.append({name: _shown(line.get(name)) for name in SHOWN})

    def _count(self, line: Mapping[str, Any]) -> None:
        kind = (text(line, "rule") or "unknown", text(line, "severity") or "unknown")
        if kind in self.counts or len(self.counts) < MAX_RULES:
            self.counts[kind] = self.counts.get(kind, 0) + 1


def _shown(value: object) -> object:
    if isinstance(value, str):
        return value[:MAX_CHARS]
    return value if isinstance(value, int | float) else None
