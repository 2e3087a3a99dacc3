"""How a run ended: its last word is in its totals, which come after the daemon's last look."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tracksided.outputs import TOTALS_FILE
from tracksided.web.fields import count, counts, objects, text
from tracksided.web.json_lines import read_object
from tracksided.web.patience import Patient
from tracksided.web.served import ServedRank, ServedRun

STATES = frozenset({"finished", "killed"})


class RunEnding:
    """A run that the daemon is done with. Belongs to one event loop."""

    def __init__(self, run: ServedRun) -> None:
        """Read nothing yet.

        Args:
            run: as it was seen last, which is some moments before its end.
        """
        self.run = _at_rest(run)
        """With its final numbers once they are read."""

        self.state: str | None = None
        """One of `STATES`; None where the files do not say, or not yet."""

        self.is_read = False
        """Whether there is nothing more to learn."""

        self._patient = Patient(self._read, self._apply)

    async def refresh(self) -> None:
        """Read the totals unless that is done."""
        if not self.is_read:
            await self._patient.refresh()

    def _read(self) -> Mapping[str, Any] | None:
        return read_object(self.run.directory, TOTALS_FILE)

    def _apply(self, totals: Mapping[str, Any] | None) -> bool:
        self.is_read = True
        if totals is None or text(totals, "run") != self.run.run:  # of the directory's run before
            return False
        state, final = text(totals, "state"), totals.get("final")
        self.state = state if state in STATES else None
        step = count(final, "step") if isinstance(final, dict) else 0
        of_rank = {count(entry, "rank"): entry for entry in objects(totals, "ranks")}
        self.run = replace(
            self.run,
            committed_step=step or self.run.committed_step,
            ranks=tuple(_final(rank, of_rank.get(rank.rank)) for rank in self.run.ranks),
        )
        return False


def _at_rest(run: ServedRun) -> ServedRun:
    """Leave out what was so while the daemon served it."""
    ranks = tuple(replace(rank, is_alive=False, lag_bytes=0) for rank in run.ranks)
    return replace(run, waiting=0, problem=None, active_alerts=(), ranks=ranks)


def _final(rank: ServedRank, totals: Mapping[str, Any] | None) -> ServedRank:
    if totals is None:
        return rank
    return replace(
        rank,
        last_step=count(totals, "last_step"),
        drops=counts(totals, "dropped"),
        damaged=count(totals, "corrupt") + count(totals, "torn"),
    )
