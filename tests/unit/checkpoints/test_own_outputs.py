"""Averages are no inputs under any name, and take the place of nothing but themselves."""

import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tracksided.checkpoints.job import AverageRequest, Unchanged, run_average
from tracksided.checkpoints.provenance import Provenance, provenance_path
from tracksided.checkpoints.publish import Publication
from tracksided.errors import OutputError, SettingsError

Save = Callable[..., list[dict[str, torch.Tensor]]]


def average(directory: Path, name: str = "averaged_model.pt", pattern: str = "*.pt") -> Provenance:
    request = AverageRequest(directory=directory, output_name=name, patterns=(pattern,))
    provenance = run_average(request)
    assert not isinstance(provenance, Unchanged)
    return provenance


def sources(provenance: Provenance) -> list[str]:
    return [source.name for source in provenance.sources]


def content(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@pytest.mark.parametrize("name", ["x.json", "averaged_model.json"])
def test_an_output_with_the_name_of_its_own_json_is_refused(
    tmp_path: Path, save_steps: Save, name: str
) -> None:
    save_steps(1, 2)
    average(tmp_path)
    before = content(tmp_path)

    with pytest.raises(SettingsError, match=rf"use '{Path(name).stem}\.pt'"):
        average(tmp_path, name)

    assert content(tmp_path) == before


def test_an_output_whose_json_describes_another_is_refused(
    tmp_path: Path, save_steps: Save
) -> None:
    for step, state in zip((1, 2), save_steps(1, 2), strict=True):
        save_file(state, tmp_path / f"step_{step}.safetensors")
    average(tmp_path, "avg.pt")
    before = content(tmp_path)

    with pytest.raises(SettingsError, match=r"avg\.json describes avg\.pt; move both away"):
        average(tmp_path, "avg.safetensors", "*.safetensors")

    assert content(tmp_path) == before
    (tmp_path / "avg.pt").unlink()
    assert average(tmp_path, "avg.safetensors", "*.safetensors").output == "avg.safetensors"


def test_an_output_without_suffix_gets_that_of_its_format(tmp_path: Path, save_steps: Save) -> None:
    save_steps(1, 2)

    assert average(tmp_path, "averaged_model").output == "averaged_model.pt"
    assert average(tmp_path, "ema").output == "ema.pt"
    assert not (tmp_path / "ema").exists()


def test_a_copy_of_an_average_is_no_input_whatever_becomes_of_the_original(
    tmp_path: Path, save_steps: Save
) -> None:
    save_steps(1, 2, 3)
    average(tmp_path)
    shutil.copy(tmp_path / "averaged_model.pt", tmp_path / "best_step_900.pt")
    shutil.copy(tmp_path / "averaged_model.pt", tmp_path / "final.pt")

    first = average(tmp_path)
    save_steps(4)
    second = average(tmp_path)

    assert sources(first) == ["step_1.pt", "step_2.pt", "step_3.pt"]
    assert sources(second) == [*sources(first), "step_4.pt"]
    assert {entry.name: entry.reason for entry in second.skipped} == {
        "best_step_900.pt": "is an average of trackside",
        "final.pt": "is an average of trackside",
    }


def test_an_average_whose_json_is_gone_is_no_input(tmp_path: Path, save_steps: Save) -> None:
    save_steps(1, 2)
    average(tmp_path)
    average(tmp_path, "ema.pt")
    (tmp_path / "ema.json").unlink()
    (tmp_path / "averaged_model.json").unlink()

    assert sources(average(tmp_path, "other.pt")) == ["step_1.pt", "step_2.pt"]


def test_what_a_training_saves_that_began_with_an_average_is_a_checkpoint(
    tmp_path: Path, save_steps: Save
) -> None:
    save_steps(1, 2)
    average(tmp_path)
    state = torch.load(tmp_path / "averaged_model.pt", weights_only=True)
    torch.save({name: tensor + 1 for name, tensor in state.items()}, tmp_path / "step_3.pt")

    assert sources(average(tmp_path)) == ["step_1.pt", "step_2.pt", "step_3.pt"]


def test_an_average_has_the_records_of_its_template_and_one_that_marks_it(
    tmp_path: Path, save_steps: Save
) -> None:
    save_steps(1, 2)
    average(tmp_path)

    def names(path: Path) -> set[str]:
        with zipfile.ZipFile(path) as archive:
            return {name.partition("/")[2] for name in archive.namelist()}

    added = names(tmp_path / "averaged_model.pt") - names(tmp_path / "step_2.pt")
    assert added == {".trackside_average"}
    torch.load(tmp_path / "averaged_model.pt", mmap=True, weights_only=True)


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_an_average_that_was_altered_at_equal_size_is_made_anew(
    tmp_path: Path, save_steps: Save, kind: str
) -> None:
    for step, state in zip((1, 2), save_steps(1, 2), strict=True):
        if kind == "directory":
            (tmp_path / f"step_{step}.pt").unlink()
            (tmp_path / f"checkpoint-{step}").mkdir()
            save_file(state, tmp_path / f"checkpoint-{step}" / "model.safetensors")
    request = AverageRequest(directory=tmp_path, patterns=("*.pt", "*/"), keep_current=True)
    run_average(request)
    assert isinstance(run_average(request), Unchanged)
    output = tmp_path / ("averaged_model.pt" if kind == "file" else "averaged/model.safetensors")
    whole = output.read_bytes()
    output.write_bytes(whole[:-200] + bytes([whole[-200] ^ 1]) + whole[-199:])
    described_at = provenance_path(tmp_path / output.relative_to(tmp_path).parts[0]).stat()
    os.utime(output, ns=(0, described_at.st_mtime_ns + 1))  # the clock of files may be coarse

    again = run_average(request)

    assert isinstance(again, Provenance)
    assert output.read_bytes() == whole
    assert isinstance(run_average(request), Unchanged)


@pytest.mark.parametrize("name", ["averaged_model.pt", "avg.pt"])
@pytest.mark.parametrize("text", ['{"val_loss": 0.25}', '{"step": 1}\n{"step": 2}\n', ""])
def test_a_json_file_of_somebody_else_is_never_replaced(
    tmp_path: Path, save_steps: Save, name: str, text: str
) -> None:
    save_steps(1, 2)
    foreign = tmp_path / f"{Path(name).stem}.json"
    foreign.write_text(text)
    before = content(tmp_path)

    with pytest.raises(SettingsError, match=rf"{foreign.name} exists and is no average"):
        average(tmp_path, name)

    assert content(tmp_path) == before
    foreign.unlink()
    assert average(tmp_path, name).output == name


@pytest.mark.parametrize("name", ["averaged_model.json", "averaged_model.pt"])
def test_a_file_that_comes_while_the_average_is_made_is_not_replaced(
    tmp_path: Path, save_steps: Save, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    save_steps(1, 2)
    foreign = tmp_path / name
    really_sync = Publication.sync

    def sync(self: Publication) -> None:
        foreign.write_text("mine")
        really_sync(self)

    monkeypatch.setattr(Publication, "sync", sync)
    with pytest.raises(OutputError, match=rf"{name}: came while"):
        average(tmp_path)

    assert foreign.read_text() == "mine"
    assert {path.name for path in tmp_path.iterdir()} == {"step_1.pt", "step_2.pt", foreign.name}


def test_the_name_of_the_metrics_is_left_to_them(tmp_path: Path, save_steps: Save) -> None:
    save_steps(1, 2)

    with pytest.raises(SettingsError, match=r"metrics\.json, which is for metrics"):
        average(tmp_path, "metrics.pt")

    (tmp_path / "metrics.json").write_text('{"step_1.pt": {"val_loss": 0.25}}')
    before = content(tmp_path)
    with pytest.raises(SettingsError, match=r"metrics\.json, which is for metrics"):
        average(tmp_path, "metrics")
    assert content(tmp_path) == before
