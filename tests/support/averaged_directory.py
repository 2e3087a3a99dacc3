"""An averaged directory in which somebody works."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from tracksided.checkpoints.job import AverageRequest, Unchanged, run_average

OWN = {"model.safetensors", "averaging.json", "config.json"}


def save_step(directory: Path, step: int, **texts: str) -> None:
    """Save a checkpoint with JSON files of these stems."""
    made = directory / f"checkpoint-{step}"
    made.mkdir()
    save_file({"w": torch.full((3,), float(step))}, made / "model.safetensors")
    for stem, text in {"config": config(step), **texts}.items():
        (made / f"{stem}.json").write_text(text)


def config(step: int) -> str:
    """Return the text of a checkpoint's config.json."""
    return json.dumps({"step": step})


def request(directory: Path) -> AverageRequest:
    """Ask for the average of the newest two."""
    return AverageRequest(directory=directory, patterns=("*/",), count=2, keep_current=True)


def average(directory: Path) -> None:
    """Average the newest two, which must be new."""
    assert not isinstance(run_average(request(directory)), Unchanged)


def weight(output: Path) -> float:
    """Read the one weight of an average."""
    found: float = load_file(output / "model.safetensors")["w"][0].item()
    return found


def put(path: Path, text: str) -> None:
    """Write a text, also into a directory to be made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def others(output: Path) -> dict[str, str]:
    """Read what the average did not write."""
    return {
        path.relative_to(output).as_posix(): path.read_text()
        for path in output.rglob("*")
        if path.is_file() and path.relative_to(output).as_posix() not in OWN
    }


def make_average(directory: Path) -> Path:
    """Average two checkpoints into a new directory."""
    for step in (1, 2):
        save_step(directory, step)
    average(directory)
    return directory / "averaged"
