"""The numbers of one run over its steps, in bounded memory."""

import math
from array import array
from collections import deque
from collections.abc import Mapping
from itertools import islice
from typing import Any

from tracksided.web.fields import count, number, objects, text

SERIES = (
    "step",
    "timestamp",
    "loss",
    "lr",
    "norm_before_clip",
    "norm_after_clip",
    "step_seconds",
)
MAX_POINTS = 2000  # more than a screen has columns; beyond it every other point goes
MAX_LAYERS = 256  # rows of the entropy map
KEPT_ROWS = 256  # what a browser may miss between two looks and still be sent piece by piece

Row = dict[str, Any]
"""One step: the names of `SERIES`, and ``entropy``: layer to nats. Unknown is None."""

Column = list[float | None]


class Curves:
    """Columns of numbers, one entry for each kept step. One thread.

    A step that is not above the last one means that training went back: the steps from there on
    belong to an abandoned try and are dropped, here and in the browser alike.
    """

    def __init__(self) -> None:
        self._series = {name: array("d") for name in SERIES}
        self._entropy: dict[str, array[float]] = {}
        self._recent: deque[Row] = deque(maxlen=KEPT_ROWS)
        self.num_rows = 0
        """How many lines were taken in, also those that are not kept any more."""

    def add(self, line: Mapping[str, Any]) -> None:
        """Take in one line of ``history.jsonl``; a line without a step says nothing."""
        row = _row(line)
        if row["step"] is None:
            return
        self._drop_from(row["step"])
        for layer in row["entropy"]:
            if layer not in self._entropy and len(self._entropy) < MAX_LAYERS:
                self._entropy[layer] = array("d", [math.nan]) * len(self)
        for name, column in self._series.items():
            column.append(math.nan if row[name] is None else row[name])
        for layer, column in self._entropy.items():
            value = row["entropy"].get(layer)
            column.append(math.nan if value is None else value)
        self._recent.append(row)
        self.num_rows += 1
        if len(self) > 2 * MAX_POINTS:
            self._thin_out()

    def __len__(self) -> int:
        return len(self._series["step"])

    def columns(self) -> dict[str, Any]:
        """Return all that is kept: a list for each of `SERIES`, and ``entropy``: layer to list."""
        columns: dict[str, Any] = {name: _plain(column) for name, column in self._series.items()}
        columns["entropy"] = {layer: _plain(column) for layer, column in self._entropy.items()}
        return columns

    def rows_from(self, number_of_row: int) -> list[Row] | None:
        """Return the rows after so many; None where they are not all kept."""
        num_missing = self.num_rows - number_of_row
        if not 0 <= num_missing <= len(self._recent):
            return None
        return list(islice(self._recent, len(self._recent) - num_missing, None))

    def _columns(self) -> list["array[float]"]:
        return [*self._series.values(), *self._entropy.values()]

    def _drop_from(self, step: float) -> None:
        steps = self._series["step"]
        keep = len(steps)
        while keep and steps[keep - 1] >= step:
            keep -= 1
        for column in self._columns():
            del column[keep:]

    def _thin_out(self) -> None:
        """Drop every other point, from the end on: the newest one stays."""
        first = (len(self) - 1) % 2
        for column in self._columns():
            column[:] = column[first::2]


def _row(line: Mapping[str, Any]) -> Row:
    row: Row = {name: number(line, name) for name in SERIES}
    attention = line.get("attention")
    attention = attention if isinstance(attention, dict) else {}
    row["entropy"] = {
        f"{stack} {count(entry, 'layer')} {_kind(entry)}": number(entry, "entropy")
        for stack in ("encoder", "decoder")
        for entry in objects(attention, stack)
    }
    return row


def _kind(entry: Mapping[str, Any]) -> str:
    return "cross" if text(entry, "type") == "cross_attention" else "self"


def _plain(column: "array[float]") -> Column:
    return [value if math.isfinite(value) else None for value in column]
