"""The best checkpoints by val_loss: which are chosen, which are not, and why."""

import json
from pathlib import Path
from typing import Any

import torch

from tracksided.checkpoints.job import AverageRequest, plan_average
from tracksided.checkpoints.policy import BestBy

LOSSES = {100: 0.3, 200: 0.1, 300: 0.2}


def request(directory: Path, mode: str = "min", **options: Any) -> AverageRequest:
    best = BestBy(metric="val_loss", mode=mode)
    patterns = ("*.pt", "*.ckpt", "*.safetensors", "*/")
    return AverageRequest(directory=directory, best=best, patterns=patterns, **options)


def steps_of(directory: Path, mode: str = "min", **options: Any) -> list[int | None]:
    return [source.step for source in plan_average(request(directory, mode, **options)).sources]


def reasons_of(directory: Path, **options: Any) -> dict[str, str]:
    plan = plan_average(request(directory, **options))
    return {entry.name: entry.reason for entry in plan.skipped}


def score(directory: Path, losses: dict[int, object]) -> None:
    for step, loss in losses.items():
        (directory / f"step_{step}.json").write_text(json.dumps({"val_loss": loss}))


def model(step: int) -> dict[str, torch.Tensor]:
    return {"w": torch.full((3,), float(step))}
