"""Checkpoints whose models lie in directories, as scripts of Diffusers save them."""

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tracksided.checkpoints.formats.nested import MAX_DIRECTORIES
from tracksided.checkpoints.job import AverageRequest, run_average
from tracksided.checkpoints.listing import list_candidates
from tracksided.checkpoints.local_store import LocalStore
from tracksided.checkpoints.provenance import Provenance
from tracksided.checkpoints.watcher import look

STATE = "random_states_0.pkl"
TRAINING_FILES = ("optimizer.bin", STATE, "scaler.pt", "scheduler.bin")
UNET = "diffusion_pytorch_model.safetensors"


def save_model(directory: Path, value: float, name: str = UNET) -> None:
    """As `save_pretrained` of Diffusers or Transformers: the configuration first."""
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps({"of": directory.name}))
    save_file({"w": torch.full((2, 3), value)}, directory / name, {"format": "pt"})


def save_training(directory: Path) -> None:
    for name in TRAINING_FILES:
        (directory / name).write_bytes(b"of one step")


def save_step(out: Path, step: int) -> Path:
    """As `train_dreambooth.py` with a text encoder, and an EMA of the U-Net."""
    directory = out / f"checkpoint-{step}"
    save_model(directory / "unet_ema", 100.0 * step)
    save_model(directory / "unet", float(step))
    save_model(directory / "text_encoder", 10.0 * step, "model.safetensors")
    save_training(directory)
    return directory


def save_lora(out: Path, step: int) -> Path:
    directory = out / f"checkpoint-{step}"
    directory.mkdir()
    state = {"unet.to_q.lora_A.weight": torch.full((2, 3), float(step))}
    metadata = {"format": "pt", "lora_adapter_metadata": json.dumps({"unet.r": 2})}
    save_file(state, directory / "pytorch_lora_weights.safetensors", metadata)
    save_training(directory)
    return directory


def run(out: Path, *patterns: str) -> Provenance:
    made = run_average(AverageRequest(directory=out, patterns=patterns or ("checkpoint-*/",)))
    assert isinstance(made, Provenance)
    return made


def skipped(out: Path) -> Mapping[str, str]:
    return {entry.name: entry.reason for entry in run(out).skipped}


def files_in(directory: Path) -> set[str]:
    return {str(p.relative_to(directory)) for p in directory.rglob("*") if p.is_file()}


def weights(file: Path) -> list[float]:
    found: list[float] = load_file(file)["w"].unique().tolist()
    return found


def test_every_model_is_averaged_in_its_directory(tmp_path: Path) -> None:
    for step in (1, 2, 6):
        save_step(tmp_path, step)

    made = run(tmp_path)

    averaged = tmp_path / "averaged"
    assert weights(averaged / "unet" / UNET) == [3.0]
    assert weights(averaged / "text_encoder" / "model.safetensors") == [30.0]
    assert json.loads((averaged / "unet/config.json").read_text()) == {"of": "unet"}
    assert files_in(averaged) == {
        "averaging.json",
        f"unet/{UNET}",
        "unet/config.json",
        "text_encoder/model.safetensors",
        "text_encoder/config.json",
    }
    assert [source.step for source in made.sources] == [1, 2, 6]
    assert made.dropped == (*TRAINING_FILES, "unet_ema")


def test_weights_of_an_unknown_kind_do_not_go_along_with_the_average(tmp_path: Path) -> None:
    for step in (1, 2):
        directory = save_step(tmp_path, step)
        (directory / "unet" / UNET).rename(directory / "unet" / "model.flashpack")

    made = run(tmp_path)

    assert made.dropped == (*TRAINING_FILES, "unet", "unet_ema")
    assert not (tmp_path / "averaged" / "unet").exists()


def test_an_ema_is_averaged_where_nothing_but_that_was_saved(tmp_path: Path) -> None:
    for step in (1, 2, 6):
        directory = save_step(tmp_path, step)
        shutil.rmtree(directory / "unet")
        shutil.rmtree(directory / "text_encoder")

    made = run(tmp_path)

    assert weights(tmp_path / "averaged" / "unet_ema" / UNET) == [300.0]
    assert made.dropped == TRAINING_FILES


def test_an_ema_beside_weights_that_lie_in_no_directory_is_left_out(tmp_path: Path) -> None:
    for step in (1, 2):
        directory = save_lora(tmp_path, step)
        save_model(directory / "ema_model", float(step))

    made = run(tmp_path)

    assert made.dropped == ("ema_model", *TRAINING_FILES)
    assert not (tmp_path / "averaged" / "ema_model").exists()


def test_adapters_of_a_pipeline_are_averaged_with_their_metadata(tmp_path: Path) -> None:
    for step in (1, 2, 6):
        save_lora(tmp_path, step)

    made = run(tmp_path)

    file = tmp_path / "averaged" / "pytorch_lora_weights.safetensors"
    assert load_file(file)["unet.to_q.lora_A.weight"].unique().tolist() == [3.0]
    with safe_open(file, "pt") as opened:
        assert json.loads(opened.metadata()["lora_adapter_metadata"]) == {"unet.r": 2}
    assert made.dropped == TRAINING_FILES


def test_shards_of_a_model_in_a_directory_are_averaged(tmp_path: Path) -> None:
    names = [f"diffusion_pytorch_model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    for step in (1, 2, 6):
        directory = tmp_path / f"checkpoint-{step}" / "transformer"
        directory.mkdir(parents=True)
        for key, name in zip("ab", names, strict=True):
            save_file({key: torch.full((3,), float(step))}, directory / name)
        index = {"weight_map": dict(zip("ab", names, strict=True))}
        (directory / f"{UNET}.index.json").write_text(json.dumps(index))
        save_training(directory.parent)

    run(tmp_path)

    averaged = tmp_path / "averaged" / "transformer"
    assert [load_file(averaged / name)[key].tolist() for key, name in zip("ab", names, strict=True)]
    assert load_file(averaged / names[1])["b"].tolist() == [3.0] * 3
    assert f"{UNET}.index.json" in files_in(averaged)


def _without_state(directory: Path) -> None:
    (directory / STATE).unlink()


def _without_model(directory: Path) -> None:
    shutil.rmtree(directory / "text_encoder")


def _without_weights(directory: Path) -> None:
    for name in ("unet", "unet_ema", "text_encoder"):
        shutil.rmtree(directory / name)


def _truncated(directory: Path) -> None:
    os.truncate(directory / "unet" / UNET, 100)


def _of_deepspeed(directory: Path) -> None:
    (directory / "pytorch_model").mkdir()


def _linked(directory: Path) -> None:
    shutil.move(directory / "unet", directory.parent / "outside")
    (directory / "unet").symlink_to("../outside")


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (_without_state, f"nor does it have {STATE}, which Accelerate writes behind models"),
        (_without_model, "it lacks 'text_encoder:w'"),
        (_without_weights, "holds no weights that are read here, nor do directories in it"),
        (_truncated, f"unet/{UNET}: "),
        (_of_deepspeed, "is a checkpoint of DeepSpeed (pytorch_model)"),
        (_linked, "it lacks 'unet:w'"),
    ],
)
def test_what_is_incomplete_or_not_understood_is_skipped_by_name(
    tmp_path: Path, damage: Callable[[Path], None], reason: str
) -> None:
    for step in (1, 2, 3, 4):
        save_step(tmp_path, step)
    damage(tmp_path / "checkpoint-3")

    reasons = skipped(tmp_path)

    assert reason in reasons["checkpoint-3"]
    assert reasons.keys() == {"checkpoint-3"}
    assert weights(tmp_path / "averaged" / "unet" / UNET) == [pytest.approx(7 / 3)]


def test_finals_of_several_trainings_are_no_checkpoints(tmp_path: Path) -> None:
    for name in ("cats", "dogs", "horses"):
        save_model(tmp_path / name / "unet", 1.0)

    assert list_candidates(LocalStore(tmp_path), ("*/",), ()) == ()
    assert look(tmp_path).names == frozenset()


def test_the_pipeline_at_the_end_of_a_training_does_not_hide_its_checkpoints(
    tmp_path: Path,
) -> None:
    for step in (1, 2, 6):
        save_step(tmp_path, step)
    save_model(tmp_path / "unet", 7.0)
    save_model(tmp_path / "vae", 7.0)
    (tmp_path / "model_index.json").write_text("{}")

    made = run(tmp_path, *look(tmp_path).patterns)

    assert look(tmp_path).patterns[0] == "*/"
    assert [source.step for source in made.sources] == [1, 2, 6]


def test_the_watcher_sees_a_checkpoint_when_accelerate_has_written_its_state(
    tmp_path: Path,
) -> None:
    directory = save_step(tmp_path, 1)
    (directory / STATE).rename(tmp_path / "later")
    before = look(tmp_path)

    (tmp_path / "later").rename(directory / STATE)

    assert before.names == frozenset()
    assert look(tmp_path).names == {"checkpoint-1"}


def test_the_watcher_sees_a_model_in_a_directory_change(tmp_path: Path) -> None:
    directory = save_step(tmp_path, 1)
    before = look(tmp_path)

    save_file({"w": torch.ones(9)}, directory / "text_encoder" / "model.safetensors")

    assert {name for name, _, _, _ in before.signature ^ look(tmp_path).signature} == {
        "checkpoint-1/text_encoder/model.safetensors"
    }


def test_the_watcher_looks_into_no_more_directories_than_are_read(tmp_path: Path) -> None:
    directory = save_step(tmp_path, 1)
    for number in range(MAX_DIRECTORIES):
        (directory / f"cache_{number}").mkdir()

    assert {name for name, _, _, _ in look(tmp_path).signature} == {f"checkpoint-1/{STATE}"}


def test_the_watcher_names_a_checkpoint_of_deepspeed(tmp_path: Path) -> None:
    _of_deepspeed(save_step(tmp_path, 1))

    seen = look(tmp_path)

    assert seen.names == frozenset()
    assert [name for name, _ in seen.refused] == ["checkpoint-1"]


@pytest.mark.parametrize("kept_percent", [0, 1, 50, 99])
def test_half_a_configuration_of_a_model_costs_the_checkpoint_its_place(
    tmp_path: Path, kept_percent: int
) -> None:
    for step in (1, 2, 3):
        save_step(tmp_path, step)
    path = tmp_path / "checkpoint-3" / "unet" / "config.json"
    text = path.read_text()
    path.write_text(text[: len(text) * kept_percent // 100])

    assert "unet/config.json: is no complete JSON" in skipped(tmp_path)["checkpoint-3"]
    assert load_file(tmp_path / "averaged" / "unet" / UNET)["w"][0, 0] == 1.5
