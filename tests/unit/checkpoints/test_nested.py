"""Directories in checkpoint directories: weights in them, and configuration that goes along."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.distributed import checkpoint

from tracksided.checkpoints.formats.nested import MAX_DIRECTORIES
from tracksided.checkpoints.job import AverageRequest, Unchanged, run_average
from tracksided.checkpoints.provenance import Provenance
from tracksided.checkpoints.watcher import look

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.distributed is disabled.*:UserWarning")

SHARDS = "pytorch_model_fsdp_0"


def save_sentence_transformer(out: Path, step: int) -> None:
    """As Sentence-Transformers 6 lays it out."""
    directory = out / f"checkpoint-{step}"
    for name in ("1_Pooling", "2_Dense"):
        (directory / name).mkdir(parents=True)
        (directory / name / "config.json").write_text(json.dumps({"of": name}))
    (directory / "modules.json").write_text("[]")
    save_file({"weight": torch.full((2, 2), float(step))}, directory / "model.safetensors")
    dense = {"weight": torch.full((3,), 10.0 * step)}
    save_file(dense, directory / "2_Dense" / "model.safetensors")


def save_shards(out: Path, step: int, name: str = "checkpoint-{}") -> None:
    """As `accelerate.utils.fsdp_utils` saves model and optimizer."""
    directory = out / name.format(step)
    state = {"weight": torch.full((2, 3), float(step)), "bias": torch.full((3,), 2.0 * step)}
    moments = {"state": {"weight": {"exp_avg": torch.ones(2, 3)}}}
    checkpoint.save({"model": state}, checkpoint_id=directory / SHARDS, no_dist=True)
    checkpoint.save({"optimizer": moments}, checkpoint_id=directory / "optimizer_0", no_dist=True)
    torch.save({"seed": step}, directory / "random_states_0.pkl")


def load_shards(directory: Path) -> dict[str, torch.Tensor]:
    content: dict[str, Any] = {"model": {"weight": torch.zeros(2, 3), "bias": torch.zeros(3)}}
    checkpoint.load(content, checkpoint_id=directory / SHARDS, no_dist=True)
    state: dict[str, torch.Tensor] = content["model"]
    return state


def run(out: Path, **options: Any) -> Provenance:
    made = run_average(AverageRequest(directory=out, patterns=("*/",), **options))
    assert isinstance(made, Provenance)
    return made


def files_in(directory: Path) -> set[str]:
    return {str(p.relative_to(directory)) for p in directory.rglob("*") if p.is_file()}


def skipped(out: Path) -> Mapping[str, str]:
    return {entry.name: entry.reason for entry in run(out).skipped}


def test_directories_of_configuration_go_along_and_weights_in_them_are_averaged(
    tmp_path: Path,
) -> None:
    for step in (1, 2):
        save_sentence_transformer(tmp_path, step)

    made = run(tmp_path)

    averaged = tmp_path / "averaged"
    assert files_in(averaged) == {*files_in(tmp_path / "checkpoint-2"), "averaging.json"}
    assert load_file(averaged / "model.safetensors")["weight"].unique().tolist() == [1.5]
    assert load_file(averaged / "2_Dense/model.safetensors")["weight"].tolist() == [15.0] * 3
    assert json.loads((averaged / "1_Pooling/config.json").read_text()) == {"of": "1_Pooling"}
    assert made.dropped == ()
    assert set(made.files) == files_in(tmp_path / "checkpoint-2")


def test_shards_of_fsdp_are_averaged_in_their_directory(tmp_path: Path) -> None:
    for step in (1, 2, 6):
        save_shards(tmp_path, step)

    made = run(tmp_path)

    found = load_shards(tmp_path / "averaged")
    assert found["weight"].unique().tolist() == [3.0]
    assert found["bias"].tolist() == [6.0, 6.0, 6.0]
    assert made.dropped == ("optimizer_0", "random_states_0.pkl")
    assert [source.verified for source in made.sources] == [True, True, True]


def test_a_file_that_is_missing_in_shards_names_directory_and_file(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        save_shards(tmp_path, step)
    (tmp_path / "checkpoint-3" / SHARDS / ".metadata").unlink()

    assert skipped(tmp_path)["checkpoint-3"].startswith(f"{SHARDS}: no .metadata")


def test_a_damaged_shard_names_directory_and_file(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        save_shards(tmp_path, step)
    os.truncate(tmp_path / "checkpoint-3" / SHARDS / "__0_0.distcp", 100)

    assert skipped(tmp_path)["checkpoint-3"].startswith(f"{SHARDS}/__0_0.distcp: ")


def test_the_next_average_takes_the_place_of_all_that_the_last_one_wrote(tmp_path: Path) -> None:
    for step in (1, 2):
        save_sentence_transformer(tmp_path, step)
    run(tmp_path)
    (tmp_path / "averaged/1_Pooling/mine.txt").write_text("of mine")
    (tmp_path / "averaged/2_Dense/config.json").write_text("edited")
    again = AverageRequest(directory=tmp_path, patterns=("*/",), keep_current=True)
    save_sentence_transformer(tmp_path, 6)

    run(tmp_path)

    averaged = tmp_path / "averaged"
    ours = {*files_in(tmp_path / "checkpoint-6"), "averaging.json"}
    assert files_in(averaged) == {*ours, "1_Pooling/mine.txt", "2_Dense/config.json.kept"}
    assert load_file(averaged / "2_Dense/model.safetensors")["weight"].tolist() == [30.0] * 3
    assert isinstance(run_average(again), Unchanged)
    assert {path.name for path in tmp_path.iterdir()} == {
        "averaged",
        *(f"checkpoint-{step}" for step in (1, 2, 6)),
    }


def test_a_directory_of_the_training_is_left_out_whole_and_named(tmp_path: Path) -> None:
    for step in (1, 2):
        save_sentence_transformer(tmp_path, step)
        for name in ("global_step7", "runs/host", "checkpoint-1", "link"):
            target = tmp_path / f"checkpoint-{step}" / name
            if name == "link":
                target.symlink_to("1_Pooling")
                continue
            target.mkdir(parents=True)
            (target / "config.json").write_text("{}")
            save_file({"weight": torch.ones(1)}, target / "model.safetensors")
        (tmp_path / f"checkpoint-{step}/global_step7/model.safetensors").rename(
            tmp_path / f"checkpoint-{step}/global_step7/zero_states.pt"
        )

    made = run(tmp_path)

    assert made.dropped == ("checkpoint-1", "global_step7", "link", "runs")
    assert not (tmp_path / "averaged" / "global_step7").exists()


def test_shards_that_lie_deeper_are_left_out_and_named(tmp_path: Path) -> None:
    for step in (1, 2):
        save_sentence_transformer(tmp_path, step)
        save_shards(tmp_path / f"checkpoint-{step}", 7, name="of_step_{}")
        save_shards(tmp_path / f"checkpoint-{step}", 7, name="2_Dense")

    made = run(tmp_path)

    assert made.dropped == (
        "2_Dense: optimizer_0",
        f"2_Dense: {SHARDS}",
        "2_Dense: random_states_0.pkl",
        "of_step_7",
    )
    dense = load_file(tmp_path / "averaged" / "2_Dense" / "model.safetensors")
    assert dense["weight"].tolist() == [15.0] * 3


def test_more_directories_than_a_checkpoint_has_are_refused(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        save_sentence_transformer(tmp_path, step)
    for number in range(MAX_DIRECTORIES):
        (tmp_path / "checkpoint-3" / f"cache_{number}").mkdir()

    assert skipped(tmp_path)["checkpoint-3"] == (
        "holds 102 directories, 100 are read here; move away what is not of the checkpoint"
    )


def test_the_watcher_sees_files_in_a_directory_of_shards(tmp_path: Path) -> None:
    save_shards(tmp_path, 1, name="epoch_{}")
    before = look(tmp_path)

    (tmp_path / "epoch_1" / SHARDS / "__0_0.distcp").write_bytes(b"longer than it was" * 1000)

    assert f"epoch_1/{SHARDS}/.metadata" in {name for name, _, _, _ in before.signature}
    assert look(tmp_path).signature != before.signature
    assert before.names == {"epoch_1"}


def test_modes_of_the_directory_hold_for_those_in_it(tmp_path: Path) -> None:
    for step in (1, 2):
        save_sentence_transformer(tmp_path, step)
        (tmp_path / f"checkpoint-{step}").chmod(0o750)

    run(tmp_path)

    for path in (tmp_path / "averaged", tmp_path / "averaged/1_Pooling"):
        assert path.stat().st_mode & 0o777 == 0o750
