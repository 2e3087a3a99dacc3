"""Averages of trainings with several models, loaded again by Accelerate."""

from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch import nn

from tracksided.checkpoints.job import AverageRequest, run_average
from tracksided.checkpoints.provenance import Provenance

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("safe", [True, False])
def test_both_models_of_a_training_are_averaged_and_loaded(tmp_path: Path, *, safe: bool) -> None:
    accelerator = Accelerator(cpu=True)
    models = accelerator.prepare(nn.Linear(3, 2), nn.Linear(2, 3))
    seen = []
    for step in (1, 2, 3):
        with torch.no_grad():
            for parameter in (p for model in models for p in model.parameters()):
                parameter.copy_(torch.randn_like(parameter))
        seen.append([{k: v.clone() for k, v in model.state_dict().items()} for model in models])
        accelerator.save_state(str(tmp_path / f"step_{step}"), safe_serialization=safe)

    made = run_average(AverageRequest(directory=tmp_path, patterns=("*/",)))

    assert isinstance(made, Provenance)
    assert_loads(accelerator, tmp_path / "averaged", seen, models)
    accelerator.free_memory()


def assert_loads(
    accelerator: Accelerator,
    directory: Path,
    seen: list[list[dict[str, torch.Tensor]]],
    models: list[nn.Module],
) -> None:
    """Load as Accelerate does, and compare with the mean."""
    accelerator.load_state(str(directory))
    for place, model in enumerate(models):
        for name, tensor in model.state_dict().items():
            wide = [step[place][name].double().numpy() for step in seen]
            assert torch.equal(tensor, torch.from_numpy(np.mean(wide, axis=0)).float()), name
