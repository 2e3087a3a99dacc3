"""A real training with Lightning: its checkpoints are averaged and loaded by it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from tracksided.checkpoints.job import AverageRequest, run_average
from tracksided.checkpoints.provenance import Provenance

lightning = pytest.importorskip("lightning")

pytestmark = [
    pytest.mark.integration,
    # Lightning's own advice and deprecations: not about the averaging.
    pytest.mark.filterwarnings("ignore"),
]


class Regression(lightning.LightningModule):  # type: ignore[misc,name-defined] # may be missing
    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.layers = nn.Sequential(nn.Linear(3, width), nn.Tanh(), nn.Linear(width, 1))

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        inputs, targets = batch
        return nn.functional.mse_loss(self.layers(inputs), targets)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=0.05)


def train(directory: Path, *more: lightning.Callback) -> None:  # type: ignore[name-defined]  # exported late
    """Train for 20 steps, with a checkpoint every 5."""
    torch.manual_seed(0)
    inputs = torch.randn(40, 3)
    data = DataLoader(TensorDataset(inputs, inputs.sum(1, keepdim=True)), batch_size=4)
    saver = lightning.pytorch.callbacks.ModelCheckpoint(
        directory, every_n_train_steps=5, save_top_k=-1, save_last=True
    )
    trainer = lightning.Trainer(
        max_steps=20,
        accelerator="cpu",
        callbacks=[saver, *more],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Regression(width=16), data)


def test_the_average_of_a_training_loads_from_checkpoint(tmp_path: Path) -> None:
    train(tmp_path)

    provenance = run_average(AverageRequest(directory=tmp_path, patterns=("*.ckpt",)))

    assert provenance is not None
    assert [source.step for source in provenance.sources] == [5, 10, 15, 20]
    sources = [
        torch.load(tmp_path / source.name, weights_only=True)["state_dict"]
        for source in provenance.sources
    ]
    output = tmp_path / "averaged_model.pt"
    loaded = Regression.load_from_checkpoint(output, weights_only=True)
    assert loaded.hparams.width == 16
    for name, tensor in loaded.state_dict().items():
        mean = np.mean([source[name].double().numpy() for source in sources], axis=0)
        assert torch.equal(tensor, torch.from_numpy(mean).float())


def test_an_average_that_lightning_keeps_is_averaged_and_the_trained_weights_go(
    tmp_path: Path,
) -> None:
    train(tmp_path, lightning.pytorch.callbacks.EMAWeightAveraging(decay=0.9))

    provenance = run_average(AverageRequest(directory=tmp_path, patterns=("*.ckpt",)))

    assert isinstance(provenance, Provenance)
    assert "current_model_state" in provenance.dropped
    sources = [torch.load(tmp_path / source.name) for source in provenance.sources]
    loaded = Regression.load_from_checkpoint(tmp_path / "averaged_model.pt", weights_only=True)
    for name, tensor in loaded.state_dict().items():
        assert not torch.equal(
            sources[-1]["state_dict"][name], sources[-1]["current_model_state"][name]
        )
        mean = np.mean([source["state_dict"][name].double().numpy() for source in sources], axis=0)
        assert torch.equal(tensor, torch.from_numpy(mean).float())
