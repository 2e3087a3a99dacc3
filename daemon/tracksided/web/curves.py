"""The numbers of one run over its steps, in bounded memory."""

import math
from array import array
from collections import deque
from collections.abc import Mapping
from itertools import islice
from typing import Any

from tracksided.web.fields import count, number, objects, text

MEASURES = ("loss", "lr", "norm_before_clip", "norm_after_clip", "step_seconds")
SERIES = ("step", "timestamp", *MEASURES)
MAX_POINTS = 2000  # more than a screen has columns; beyond it every other point goes
MAX_LAYERS = 256  # rows of the entropy map
KEPT_ROWS = 256  # what a browser may miss between two looks and still be sent piece by piece

NOT_FINITE = "NaN"  # JSON has neither NaN nor infinity, and neither is unknown

Row = dict[str, Any]
"""One step: the names of `SERIES`, and ``entropy``: layer to nats.

Unknown is None; a value that was NaN or infinite is `NOT_FINITE`.
"""

Column = list[float | str | None]


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
        if row["step"] is None or not math.isfinite(row["step"]):
            return
        self._drop_from(row["step"])
        for layer in row["entropy"]:
            if layer not in self._entropy and len(self._entropy) < MAX_LAYERS:
                self._entropy[layer] = array("d", [math.nan]) * len(self)
        for name, column in self._series.items():
            column.append(_stored(row[name]))
        for layer, column in self._entropy.items():
            column.append(_stored(row["entropy"].get(layer)))
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
    broken = line.get("nonfinite")
    for name in MEASURES:
        if isinstance(broken, list) and name in broken:
            row[name] = NOT_FINITE
    attention = line.get("attention")
    attention = attention if isinstance(attention, dict) else {}
    layers = (
        (f"{stack} {count(entry, 'layer')} {_kind(entry)}", number(entry, "entropy"))
        for stack in ("encoder", "decoder")
        for entry in objects(attention, stack)
    )
    row["entropy"] = dict(islice(layers, MAX_LAYERS))
    return row


def _kind(entry: Mapping[str, Any]) -> str:
    return "cross" if text(entry, "type") == "cross_attention" else "self"


def _stored(value: float | str | None) -> float:
    """Return NaN for what is unknown, infinity for what was not finite."""
    if isinstance(value, str):
        return math.inf
    # What JSON cannot hold was written by somebody else, and says nothing.
    return math.nan if value is None or math.isinf(value) else value


def _plain(column: "array[float]") -> Column:
    return [_sent(value) for value in column]


def _sent(value: float) -> float | str | None:
    if math.isfinite(value):
        return value
    return None if math.isnan(value) else NOT_FINITE
