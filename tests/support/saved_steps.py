"""Small checkpoints, each full of the number of its step."""

from pathlib import Path

import torch
from safetensors.torch import save_file


def save_torch(directory: Path, step: int) -> None:
    torch.save({"w": torch.full((50,), float(step))}, directory / f"step_{step}.pt")


def save_directory(directory: Path, step: int) -> None:
    inside = directory / f"checkpoint-{step}"
    inside.mkdir()
    save_file({"w": torch.full((50,), float(step))}, inside / "model.safetensors")
    (inside / "config.json").write_text(f'{{"step": {step}}}')
