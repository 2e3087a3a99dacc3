"""Directories that Accelerate numbers by listing them: nothing of ours may appear in there."""

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from huggingface_directories import assert_mean, load, save_single, save_step

from tracksided.checkpoints.job import AverageRequest, Unchanged, plan_average, run_average
from tracksided.checkpoints.naming import temporary_name
from tracksided.checkpoints.placement import placement_for
from tracksided.checkpoints.provenance import Provenance
from tracksided.cli.average import command
from tracksided.errors import OutputError

State = dict[str, torch.Tensor]
DIRECTORIES = ("*/",)


def save(out: Path, *steps: int) -> list[State]:
    """As `Accelerator.save_state` does under automatic naming: random states lie in each."""
    out.mkdir(exist_ok=True)
    return [save_step(out, step, save_single, name="checkpoint_{step}") for step in steps]


def average(directory: Path, **settings: object) -> Provenance:
    made = run_average(AverageRequest(directory=directory, patterns=DIRECTORIES, **settings))  # type: ignore[arg-type] # as given
    assert isinstance(made, Provenance)
    return made


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def test_the_average_lies_beside_the_directory_and_nothing_in_it(tmp_path: Path) -> None:
    checkpoints = tmp_path / "checkpoints"
    states = save(checkpoints, 1, 2, 3)

    made = average(checkpoints)

    assert names(checkpoints) == {"checkpoint_1", "checkpoint_2", "checkpoint_3"}
    assert names(tmp_path) == {"checkpoints", "checkpoints-averaged"}
    assert_mean(load(tmp_path / "checkpoints-averaged"), states)
    assert (made.output, made.sources_in) == ("checkpoints-averaged", "checkpoints")
    written = json.loads((tmp_path / "checkpoints-averaged" / "averaging.json").read_text())
    assert (written["output"], written["sources_in"]) == ("checkpoints-averaged", "checkpoints")


def test_a_new_average_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    checkpoints = tmp_path / "checkpoints"
    states = save(checkpoints, 1, 2)
    average(checkpoints)

    states += save(checkpoints, 3)
    request = AverageRequest(directory=checkpoints, patterns=DIRECTORIES, keep_current=True)
    made = run_average(request)

    assert isinstance(made, Provenance)
    assert_mean(load(tmp_path / "checkpoints-averaged"), states)
    assert isinstance(run_average(request), Unchanged)
    assert names(tmp_path) == {"checkpoints", "checkpoints-averaged"}


def test_a_name_that_is_asked_for_lies_beside_it_too(tmp_path: Path) -> None:
    checkpoints = tmp_path / "checkpoints"
    save(checkpoints, 1, 2)

    average(checkpoints, output_name="mine")

    assert names(checkpoints) == {"checkpoint_1", "checkpoint_2"}
    assert names(tmp_path) == {"checkpoints", "checkpoints-mine"}


def test_what_lies_there_and_is_no_average_is_left_alone(tmp_path: Path) -> None:
    checkpoints = tmp_path / "checkpoints"
    save(checkpoints, 1, 2)
    (tmp_path / "checkpoints-averaged").mkdir()

    with pytest.raises(OutputError, match="checkpoints-averaged: exists and is no average"):
        average(checkpoints)

    assert names(tmp_path) == {"checkpoints", "checkpoints-averaged"}


def test_debris_of_a_killed_writer_is_removed_where_it_lies(tmp_path: Path) -> None:
    checkpoints = tmp_path / "checkpoints"
    save(checkpoints, 1, 2)
    (tmp_path / temporary_name("checkpoints-averaged")).mkdir()

    average(checkpoints)

    assert names(tmp_path) == {"checkpoints", "checkpoints-averaged"}


def test_a_link_and_a_relative_path_lead_beside_the_directory_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "project").mkdir()
    save(tmp_path / "disk" / "large", 1, 2)
    (tmp_path / "project" / "checkpoints").symlink_to(tmp_path / "disk" / "large")
    monkeypatch.chdir(tmp_path / "disk" / "large")

    for directory in (tmp_path / "project" / "checkpoints", Path()):
        plan = plan_average(AverageRequest(directory=directory, patterns=DIRECTORIES))
        assert plan.output == str(tmp_path / "disk" / "large-averaged")
    average(tmp_path / "project" / "checkpoints")

    assert names(tmp_path / "disk") == {"large", "large-averaged"}
    assert names(tmp_path / "project") == {"checkpoints"}


def test_the_command_says_where_it_went_and_why(tmp_path: Path) -> None:
    checkpoints = tmp_path / "checkpoints"
    save(checkpoints, 1, 2)

    result = CliRunner().invoke(command, [str(checkpoints)])

    assert f"into {tmp_path / 'checkpoints-averaged'} in" in result.stdout
    assert f"it lies beside {checkpoints}, because Accelerate counts every name" in result.stderr


@pytest.mark.parametrize(
    ("name", "random_states"),
    [
        ("checkpoint-{step}", "random_states_0.pkl"),  # Trainer
        ("step_{step}", "random_states_0.pkl"),  # Accelerate, named by the script
        ("checkpoint_{step}", "rng_state.pth"),  # of another trainer
    ],
)
def test_all_others_have_their_average_with_them(
    tmp_path: Path, name: str, random_states: str
) -> None:
    for step in (1, 2):
        save_step(tmp_path, step, save_single, name=name)
        directory = tmp_path / name.format(step=step)
        (directory / "random_states_0.pkl").rename(directory / random_states)

    assert average(tmp_path).sources_in == "."
    assert (tmp_path / "averaged" / "model.safetensors").exists()


def test_a_directory_that_is_gone_or_unreadable_has_no_place_of_its_own(tmp_path: Path) -> None:
    assert placement_for(tmp_path / "gone").directory == tmp_path / "gone"


def test_a_root_directory_that_is_numbered_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, 1, 2)
    monkeypatch.setattr(Path, "resolve", lambda _: Path("/"))

    with pytest.raises(OutputError, match="nothing can lie beside it"):
        average(tmp_path)

    assert names(tmp_path) == {"checkpoint_1", "checkpoint_2"}
