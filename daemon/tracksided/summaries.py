"""What is said of a run as a whole, once, at its end."""

from collections.abc import Mapping
from typing import Any

from trackside.wire.records import Close
from tracksided.assemble import logged_scalars, logged_texts
from tracksided.reports import Scalar, Text


def final_scalars(totals: Mapping[str, Any], close: Close | None) -> tuple[Scalar, ...]:
    """Return the ``Final/*`` tags, and what the script logged since the last sampled step.

    Args:
        totals: ``training_statistics.json``.
        close: how the lowest rank ended; None where it was killed.
    """
    step = _last_step(totals)
    values = {
        "Final/Loss": totals["final"]["loss"],
        "Final/Steps": totals["steps"],
        "Final/Sampled_Steps": totals["processed"],
        "Final/Dropped": sum(totals["dropped"].values()),
    }
    finals = (Scalar(tag, float(value), step) for tag, value in values.items() if value is not None)
    logged = () if close is None else tuple(logged_scalars(close.scalars))
    return (*logged, *finals)


def final_texts(totals: Mapping[str, Any], close: Close | None) -> tuple[Text, ...]:
    """Return ``Training/Final_Summary``, and what the script logged since the last sampled step.

    Args:
        totals: ``training_statistics.json``.
        close: how the lowest rank ended; None where it was killed.
    """
    rows = {
        "Run": totals["run"],
        "State": totals["state"],
        "Steps": totals["steps"],
        "Sampled steps written": totals["processed"],
        "Dropped samples": sum(totals["dropped"].values()),
        "Final loss": totals["final"]["loss"],
    }
    lines = ["| | |", "|---|---|"]
    lines += [
        f"| {name} | {'unknown' if value is None else value} |" for name, value in rows.items()
    ]
    logged = () if close is None else tuple(logged_texts(close.texts))
    return (*logged, Text("Training/Final_Summary", "\n".join(lines), _last_step(totals)))


def _last_step(totals: Mapping[str, Any]) -> int:
    return int(totals["steps"] or totals["final"]["step"])
