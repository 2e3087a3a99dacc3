"""Names of files and directories: what is read by them, and what outputs are called."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from tracksided.checkpoints.formats.catalog import suffix_of
from tracksided.checkpoints.watcher import look
from tracksided.cli.average import command

Save = Callable[..., list[dict[str, torch.Tensor]]]


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


@pytest.mark.parametrize(
    ("name", "suffix"),
    [
        ("a.pt", ".pt"),
        ("a.PT", ".PT"),
        ("a.b.pth.tar", ".pth.tar"),
        ("lr=0.1.ckpt", ".ckpt"),
        ("a.safetensors.tar", ""),
        ("a.tar", ""),
        ("model-v1.5", ""),
        (".pt", ""),
    ],
)
def test_suffixes_are_those_of_formats(name: str, suffix: str) -> None:
    assert suffix_of(name) == suffix


@pytest.mark.parametrize("suffix", [".pth.tar", ".pt.tar"])
def test_files_called_tar_are_read(tmp_path: Path, save_steps: Save, suffix: str) -> None:
    states = save_steps(9, 10, name="checkpoint-{step}" + suffix)
    (tmp_path / ("checkpoint-10" + suffix)).with_name("last" + suffix).hardlink_to(
        tmp_path / ("checkpoint-10" + suffix)
    )

    result = run(tmp_path)

    assert result.exit_code == 0
    assert f"using *{suffix}" in result.stderr
    assert f"skipped last{suffix}: is the same file as checkpoint-10{suffix}" in result.stderr
    averaged = torch.load(tmp_path / "averaged_model.pt", weights_only=True)
    expected = (states[0]["bias"].double() + states[1]["bias"].double()) / 2
    assert torch.equal(averaged["bias"], expected.float())
    assert look(tmp_path).patterns == (f"*{suffix}",)


def test_a_tar_of_old_torch_is_refused_by_name(tmp_path: Path, save_steps: Save) -> None:
    save_steps(1, 2, name="checkpoint-{step}.pth.tar")
    torch.save(
        {"w": torch.zeros(2)},
        tmp_path / "checkpoint-3.pth.tar",
        _use_new_zipfile_serialization=False,
    )

    result = run(tmp_path)

    assert result.exit_code == 0
    assert "skipped checkpoint-3.pth.tar: a legacy pickle without zip" in result.stderr


def test_metrics_lie_beside_files_called_tar(tmp_path: Path, save_steps: Save) -> None:
    save_steps(1, 2, 3, name="checkpoint-{step}.pth.tar")
    for step in (1, 2, 3):
        (tmp_path / f"checkpoint-{step}.json").write_text(json.dumps({"top1": 70 - step}))

    result = run(tmp_path, "--best", "top1", "--mode", "max", "--num-checkpoints", "2", "--json")

    names = [source["name"] for source in json.loads(result.stdout)["sources"]]
    assert names == ["checkpoint-1.pth.tar", "checkpoint-2.pth.tar"]


@pytest.mark.parametrize("name", ["checkpoint_100", "global_step100", "epoch_8", "step-5"])
def test_a_directory_called_like_a_checkpoint_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "weights.bin").write_bytes(b"")
    (tmp_path / "pictures").mkdir()

    result = run(tmp_path)

    assert result.exit_code == 1
    assert f"{name}: holds no weights that are read here" in result.stderr
    assert "pictures" not in result.stderr


@pytest.mark.parametrize("name", ["model-v1.5", "lr=0.1", "mine"])
def test_an_output_gets_the_suffix_of_its_format(
    tmp_path: Path, save_steps: Save, name: str
) -> None:
    save_steps(1, 2)

    codes = [run(tmp_path, "--output-name", name).exit_code for _ in range(2)]

    assert codes == [0, 0]
    described = json.loads((tmp_path / f"{name}.json").read_text())
    assert described["output"] == f"{name}.pt"
    assert [source["step"] for source in described["sources"]] == [1, 2]
    assert (tmp_path / f"{name}.pt").exists()


def test_an_output_may_be_called_tar(tmp_path: Path, save_steps: Save) -> None:
    save_steps(1, 2)

    assert run(tmp_path, "--output-name", "mine.pth.tar").exit_code == 0

    assert json.loads((tmp_path / "mine.json").read_text())["output"] == "mine.pth.tar"
