"""Reads what the daemon wrote, by means that are not the daemon's own."""

import json
from pathlib import Path
from typing import Any

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


def history(directory: Path) -> list[dict[str, Any]]:
    path = directory / "history.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def steps(directory: Path) -> list[int]:
    return [line["step"] for line in history(directory)]


def scalars(directory: Path, tag: str) -> list[tuple[int, float]]:
    """Return what TensorBoard's own loader makes of the event files."""
    accumulator = EventAccumulator(str(directory / "tensorboard"), size_guidance={"scalars": 0})
    accumulator.Reload()
    return [(event.step, event.value) for event in accumulator.Scalars(tag)]


def texts(directory: Path, tag: str) -> list[tuple[int, str]]:
    """Return the texts that TensorBoard's own loader finds."""
    accumulator = EventAccumulator(str(directory / "tensorboard"), size_guidance={"tensors": 0})
    accumulator.Reload()
    events = accumulator.Tensors(tag)
    return [(event.step, event.tensor_proto.string_val[0].decode()) for event in events]


def load(path: Path) -> Any:
    """Read strict JSON: a bare NaN is an error."""

    def refuse(constant: str) -> None:
        raise ValueError(constant)

    return json.loads(path.read_text(), parse_constant=refuse)
