"""From rows in the order they were written to series: a training that goes back writes anew."""

import bisect
from collections.abc import Iterable, Mapping

from tracksided.progress.curve import EMPTY, Series


class Rows:
    """Collects the values of rows.

    A row whose step lies before an earlier row's belongs to a training that was resumed from
    there: what the abandoned try wrote at that step and after it is forgotten, in every column.
    """

    def __init__(self) -> None:
        self.last_step: int | None = None
        self.rollbacks: list[tuple[int, int]] = []
        """(step it had reached, step it went back to)."""

        self._columns: dict[str, tuple[list[int], list[float]]] = {}

    def add(self, step: int, values: Mapping[str, float] | Iterable[tuple[str, float]]) -> None:
        """Take in one row; of two rows of one step the later one's values count."""
        if self.last_step is not None and step < self.last_step:
            self.go_back(step)
        self.last_step = step
        for name, value in values.items() if isinstance(values, Mapping) else values:
            steps, column = self._columns.setdefault(name, ([], []))
            if steps and steps[-1] == step:
                column[-1] = value
            else:
                steps.append(step)
                column.append(value)

    def go_back(self, step: int) -> None:
        """Forget this step and all after it."""
        if self.last_step is not None and step <= self.last_step:
            self.rollbacks.append((self.last_step, step))
            self.last_step = None
        for steps, column in self._columns.values():
            kept = bisect.bisect_left(steps, step)
            del steps[kept:], column[kept:]

    def series(self, name: str) -> Series:
        """Return one column, empty where there is none."""
        steps, column = self._columns.get(name, ((), ()))
        return Series.of(steps, column) if steps else EMPTY

    @property
    def names(self) -> tuple[str, ...]:
        """Columns that hold anything, in order of appearance."""
        return tuple(name for name, (steps, _) in self._columns.items() if steps)

    def notes(self) -> tuple[str, ...]:
        """Say in words where training went back."""
        return tuple(
            f"training went back from step {reached} to step {step}; the later try counts"
            for reached, step in self.rollbacks
        )
