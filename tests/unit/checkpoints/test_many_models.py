"""Checkpoint directories with several models, or with shards that are not read here."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tracksided.checkpoints.job import AverageRequest, TooFewCheckpoints, run_average
from tracksided.checkpoints.provenance import Provenance
from tracksided.checkpoints.watcher import look

StateDict = dict[str, torch.Tensor]
SHAPES = ((2, 3), (4,), (3, 1))
"""Of the one tensor of each model; all have the same name."""


def models(step: int) -> list[StateDict]:
    generator = torch.Generator().manual_seed(step)
    return [{"weight": torch.randn(shape, generator=generator)} for shape in SHAPES]


def save(path: Path, state: StateDict) -> None:
    if path.suffix == ".bin":
        torch.save(state, path)
    else:
        save_file(state, path)


def load(path: Path) -> StateDict:
    if path.suffix == ".bin":
        loaded: StateDict = torch.load(path, weights_only=True)
        return loaded
    return load_file(path)


def save_steps(out: Path, names: Sequence[str], steps: Sequence[int] = (1, 2)) -> None:
    for step in steps:
        directory = out / f"checkpoint-{step}"
        directory.mkdir()
        for name, state in zip(names, models(step), strict=False):
            save(directory / name, state)
        torch.save({"state": {}, "param_groups": []}, directory / "optimizer.bin")


def run(out: Path, pattern: str = "checkpoint-*/") -> Provenance:
    provenance = run_average(AverageRequest(directory=out, patterns=(pattern,)))
    assert isinstance(provenance, Provenance)
    return provenance


def skipped(out: Path) -> Mapping[str, str]:
    return {entry.name: entry.reason for entry in run(out).skipped}


@pytest.mark.parametrize(
    "names",
    [
        ("model.safetensors", "model_1.safetensors", "model_2.safetensors"),
        ("pytorch_model.bin", "pytorch_model_1.bin", "pytorch_model_2.bin"),
        ("pytorch_model_fsdp.bin", "pytorch_model_fsdp_1.bin", "pytorch_model_fsdp_2.bin"),
    ],
)
def test_every_model_is_averaged_under_its_name(tmp_path: Path, names: Sequence[str]) -> None:
    save_steps(tmp_path, names)

    provenance = run(tmp_path)

    for place, name in enumerate(names):
        wide = [models(step)[place]["weight"].double().numpy() for step in (1, 2)]
        expected = torch.from_numpy(np.mean(wide, axis=0)).float()
        assert torch.equal(load(tmp_path / "averaged" / name)["weight"], expected)
    assert provenance.dropped == ("optimizer.bin",)
    assert sum(len(shape) for shape in SHAPES) == 5  # the shapes differ, so that none is mixed up


def test_weights_that_the_trainer_writes_twice_are_averaged_twice(tmp_path: Path) -> None:
    for step in (1, 2):
        directory = tmp_path / f"checkpoint-{step}"
        directory.mkdir()
        state = {"weight": torch.full((3,), float(step))}
        save(directory / "model.safetensors", state)
        save(directory / "pytorch_model_fsdp.bin", state)

    run(tmp_path)

    for name in ("model.safetensors", "pytorch_model_fsdp.bin"):
        assert load(tmp_path / "averaged" / name)["weight"].tolist() == [1.5, 1.5, 1.5]


@pytest.mark.parametrize(
    ("gone", "reason"),
    [
        ("model.safetensors", "lacks model.safetensors, whose model comes before model_1.safe"),
        ("model_1.safetensors", "lacks model_1.safetensors, whose model comes before model_2."),
        ("model_2.safetensors", "lacks 'model_2.safetensors:weight'"),
    ],
)
def test_a_directory_that_lacks_one_of_its_models_is_skipped_by_name(
    tmp_path: Path, gone: str, reason: str
) -> None:
    names = ("model.safetensors", "model_1.safetensors", "model_2.safetensors")
    save_steps(tmp_path, names, steps=(1, 2, 3))
    (tmp_path / "checkpoint-1" / gone).unlink()

    assert reason in skipped(tmp_path)["checkpoint-1"]


def test_nan_names_the_model_in_which_it_is(tmp_path: Path) -> None:
    save_steps(tmp_path, ("model.safetensors", "model_1.safetensors"), steps=(1, 2, 3))
    bad = {"weight": torch.full(SHAPES[1], float("nan"))}
    save(tmp_path / "checkpoint-3" / "model_1.safetensors", bad)

    assert skipped(tmp_path)["checkpoint-3"].startswith("model_1.safetensors: NaN or infinity")


def test_a_series_of_numbered_files_is_no_checkpoint_of_many_models(tmp_path: Path) -> None:
    for step in (1, 2):
        (tmp_path / "run").mkdir(exist_ok=True)
        save(tmp_path / "run" / f"model_{step}00.safetensors", models(step)[0])

    assert look(tmp_path).signature == frozenset()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("pytorch_model_fsdp_rank0.bin", "each rank of FSDP saved for itself (pytorch_model_fsdp"),
        ("pytorch_model_fsdp_0_rank3.bin", "FULL_STATE_DICT, or SHARDED_STATE_DICT with use_dcp"),
        ("mp_rank_00_model_states.pt", "is a checkpoint of DeepSpeed (mp_rank_00_model_states.pt)"),
        ("bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt", "with its zero_to_fp32.py"),
        ("pytorch_model", "is a checkpoint of DeepSpeed (pytorch_model), which is not read here"),
        ("shard-00001-model-00001-of-00001.safetensors", "together with enable_consolidation"),
        ("zero_to_fp32.py", "is a checkpoint of DeepSpeed (zero_to_fp32.py), which is not read"),
    ],
)
@pytest.mark.parametrize("directory", ["checkpoint-{}", "global_step{}"])
def test_shards_that_are_not_read_are_refused_by_name(
    tmp_path: Path, directory: str, name: str, reason: str
) -> None:
    for step in (1, 2):
        path = tmp_path / directory.format(step) / name
        path.parent.mkdir()
        path.write_bytes(b"PK")

    with pytest.raises(TooFewCheckpoints) as caught:
        run(tmp_path, "*/")

    assert {entry.name for entry in caught.value.skipped} == {directory.format(n) for n in (1, 2)}
    assert all(reason in entry.reason for entry in caught.value.skipped)
    refused = dict(look(tmp_path).refused)
    assert reason in refused[directory.format(1)]
