"""Writes directories as Hugging Face's libraries do, and checks their average with numpy."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

StateDict = dict[str, torch.Tensor]
SHARDS = {
    "model-00001-of-00002.safetensors": ("embed", "norm"),
    "model-00002-of-00002.safetensors": ("head", "ids"),
}
TRAINING_FILES = (
    "optimizer.pt",
    "random_states_0.pkl",
    "rng_state.pth",
    "scaler.pt",
    "scheduler.pt",
    "training_args.bin",
)


def model(seed: int) -> StateDict:
    generator = torch.Generator().manual_seed(seed)
    return {
        "embed": torch.randn(6, 4, generator=generator),
        "norm": torch.randn(4, generator=generator).bfloat16(),
        "head": torch.randn(3, 4, generator=generator).half(),
        "ids": torch.arange(3) + seed,
    }


def save_single(directory: Path, state: StateDict) -> None:
    save_file(state, directory / "model.safetensors", metadata={"format": "pt"})


def save_shards(directory: Path, state: StateDict) -> None:
    for shard, names in SHARDS.items():
        save_file({name: state[name] for name in names}, directory / shard, {"format": "pt"})
    weight_map = {name: shard for shard, names in SHARDS.items() for name in names}
    index = {"metadata": {"total_size": 144}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))


def save_bin(directory: Path, state: StateDict) -> None:
    torch.save(state, directory / "pytorch_model.bin")


def save_bin_shards(directory: Path, state: StateDict) -> None:
    names = list(state)
    weight_map = {}
    for number, part in enumerate((names[:2], names[2:]), start=1):
        shard = f"pytorch_model-0000{number}-of-00002.bin"
        torch.save({name: state[name] for name in part}, directory / shard)
        weight_map |= dict.fromkeys(part, shard)
    index = {"metadata": {}, "weight_map": weight_map}
    (directory / "pytorch_model.bin.index.json").write_text(json.dumps(index))


def save_adapter(directory: Path, state: StateDict) -> None:
    save_file(state, directory / "adapter_model.safetensors")
    (directory / "adapter_config.json").write_text("{}")


def load(directory: Path) -> StateDict:
    tensors: StateDict = {}
    for path in sorted(directory.iterdir()):
        if path.suffix == ".safetensors":
            tensors |= load_file(path)
        elif path.suffix == ".bin":
            tensors |= torch.load(path, weights_only=True)
    return tensors


def save_step(
    out: Path,
    step: int,
    save: Callable[[Path, StateDict], None] = save_shards,
    name: str = "checkpoint-{step}",
) -> StateDict:
    """A directory as the Trainer leaves it."""
    directory = out / name.format(step=step)
    directory.mkdir()
    state = model(step)
    save(directory, state)
    (directory / "config.json").write_text('{"model_type": "x"}')
    (directory / "tokenizer.json").write_text(f"tokenizer of {step}")
    for training_file in TRAINING_FILES:
        (directory / training_file).write_bytes(b"of one step")
    (directory / "global_step7").mkdir()
    (directory / "trainer_state.json").write_text(json.dumps({"global_step": step}, indent=2))
    return state


def assert_mean(found: StateDict, states: list[StateDict]) -> None:
    assert found.keys() == states[0].keys()
    for name in ("embed", "norm", "head"):
        mean = np.mean([state[name].double().numpy() for state in states], axis=0)
        assert torch.equal(found[name], torch.from_numpy(mean).to(states[0][name].dtype))
    assert torch.equal(found["ids"], states[-1]["ids"])


def link_out(directory: Path, name: str) -> None:
    """Move a file out of its checkpoint, and leave a link to it."""
    outside = directory.parent / f"outside-{name}"
    (directory / name).rename(outside)
    (directory / name).symlink_to(outside)
