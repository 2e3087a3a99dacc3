"""Checkpoints as scripts of Diffusers have Accelerate save them, averaged and loaded again."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from averaging_service import Clock, settle
from torch import nn

from tracksided.checkpoints.job import AverageRequest, run_average
from tracksided.checkpoints.provenance import Provenance
from tracksided.checkpoints.service import CheckpointService

library = pytest.importorskip("diffusers")
training = pytest.importorskip("diffusers.training_utils")
loaders = pytest.importorskip("diffusers.loaders")

pytestmark = [
    pytest.mark.integration,
    # The libraries' own advice and deprecations: not about the averaging.
    pytest.mark.filterwarnings("ignore"),
]

StateDict = dict[str, torch.Tensor]
TRAINING_FILES = ("optimizer.bin", "random_states_0.pkl", "scheduler.bin")


def new_unet() -> nn.Module:
    unet: nn.Module = library.UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=8,
        attention_head_dim=4,
        norm_num_groups=4,
    )
    return unet


class Training:
    """A loop of `train_text_to_image.py`, with its hook for `save_state`."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.accelerator = Accelerator(cpu=True)
        unet = new_unet()
        self.ema = training.EMAModel(
            unet.parameters(), model_cls=type(unet), model_config=unet.config
        )
        optimizer = torch.optim.AdamW(unet.parameters())
        schedule = torch.optim.lr_scheduler.ConstantLR(optimizer)
        self.unet, *_ = self.accelerator.prepare(unet, optimizer, schedule)
        self.accelerator.register_save_state_pre_hook(self._save_models)

    def save(self, step: int) -> StateDict:
        """Save a checkpoint with new weights, and return those."""
        generator = torch.Generator().manual_seed(step)
        with torch.no_grad():
            for parameter in self.unet.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
        self.accelerator.save_state(str(self.out / f"checkpoint-{step}"))
        return {name: tensor.clone() for name, tensor in self.unet.state_dict().items()}

    def _save_models(self, models: list[nn.Module], weights: list[StateDict], out: str) -> None:
        self.ema.save_pretrained(str(Path(out) / "unet_ema"))
        for model in models:
            model.save_pretrained(Path(out) / "unet")  # type: ignore[operator] - a ModelMixin
            weights.pop()


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[Training]:
    started = Training(tmp_path)
    yield started
    started.accelerator.free_memory()


def assert_is_mean(found: StateDict, states: list[StateDict]) -> None:
    assert found.keys() == states[0].keys()
    for name, tensor in found.items():
        mean = np.mean([state[name].double().numpy() for state in states], axis=0)
        assert torch.equal(tensor, torch.from_numpy(mean).float()), name


def test_a_unet_is_averaged_and_loaded_with_its_subfolder(tmp_path: Path, loop: Training) -> None:
    states = [loop.save(step) for step in (500, 1000, 1500)]

    made = run_average(AverageRequest(directory=tmp_path, patterns=("checkpoint-*/",)))

    assert isinstance(made, Provenance)
    assert [source.step for source in made.sources] == [500, 1000, 1500]
    assert made.dropped == (*TRAINING_FILES, "unet_ema")
    loaded = type(loop.unet).from_pretrained(tmp_path / "averaged", subfolder="unet")
    assert loaded.config.block_out_channels == [8, 16]
    assert_is_mean(loaded.state_dict(), states)


def test_the_daemon_averages_what_save_state_has_written(
    tmp_path: Path, loop: Training, clock: Clock
) -> None:
    service = CheckpointService(num_threads=1)
    service.watch(tmp_path, run=None)
    states = [loop.save(step) for step in (1, 2, 3)]

    (event,) = settle(service, clock)

    assert event.error is None
    assert event.sources == ("checkpoint-1", "checkpoint-2", "checkpoint-3")
    loaded = type(loop.unet).from_pretrained(tmp_path / "averaged", subfolder="unet")
    assert_is_mean(loaded.state_dict(), states)
    assert settle(service, clock) == []
    service.close()


def test_adapters_are_averaged_and_read_as_those_of_a_pipeline(tmp_path: Path) -> None:
    mixin = loaders.StableDiffusionLoraLoaderMixin
    states = []
    for step in (1, 2, 3):
        generator = torch.Generator().manual_seed(step)
        name = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q.lora_{}.weight"
        shapes = {"A": (2, 16), "B": (16, 2)}
        state = {
            name.format(part): torch.randn(shape, generator=generator)
            for part, shape in shapes.items()
        }
        mixin.save_lora_weights(tmp_path / f"checkpoint-{step}", unet_lora_layers=state)
        states.append({f"unet.{key}": tensor for key, tensor in state.items()})

    run_average(AverageRequest(directory=tmp_path, patterns=("checkpoint-*/",)))

    found, _ = mixin.lora_state_dict(str(tmp_path / "averaged"))
    assert_is_mean(found, states)
