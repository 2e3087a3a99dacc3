"""Lines of history.jsonl and observations, as a run makes them."""

from pathlib import Path
from typing import Any

from fake_trainer import make_hello, make_step

from tracksided.assemble import RankStep, assemble
from tracksided.observations import Observation, observe
from tracksided.reports import StepReport


def make_report(step: int, **changes: Any) -> StepReport:
    """Report one step of one rank; ``changes`` are fields of its record."""
    return assemble([RankStep(make_hello(Path("/out")), make_step(step, **changes))], None)


def make_observation(step: int, **changes: Any) -> Observation:
    return observe(make_report(step, **changes).history)
