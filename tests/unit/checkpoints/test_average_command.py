import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import load_file, save_file

from tracksided.cli.average import command

Save = Callable[..., list[dict[str, torch.Tensor]]]


def run(*arguments: str | Path) -> Result:
    result = CliRunner().invoke(command, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result


@pytest.mark.parametrize("dash", ["-", "_"])
def test_options_take_dashes_and_underscores(tmp_path: Path, save_steps: Save, dash: str) -> None:
    states = save_steps(1, 2, 3, name="model_{step}.pth")

    result = run(
        f"--checkpoint{dash}dir",
        tmp_path,
        f"--num{dash}checkpoints",
        "2",
        f"--output{dash}name",
        "mine.pth",
        "--pattern",
        "*.pth",
    )  # fmt: skip - one line per group

    assert result.exit_code == 0
    averaged = torch.load(tmp_path / "mine.pth", weights_only=True)
    expected = (states[1]["bias"].double() + states[2]["bias"].double()) / 2
    assert torch.equal(averaged["bias"], expected.float())
    assert (tmp_path / "mine.json").exists()
    assert "averaged 2 checkpoints" in result.stdout
    assert f"{tmp_path}/mine.pth" in result.stdout


def test_the_default_directory_is_checkpoints(
    tmp_path: Path, save_steps: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_steps(1, 2)
    directory = tmp_path.parent / "checkpoints"
    directory.symlink_to(tmp_path)
    monkeypatch.chdir(tmp_path.parent)

    result = run()
    directory.unlink()

    assert result.exit_code == 0
    assert (tmp_path / "averaged_model.pt").exists()


def test_control_codes_in_names_are_escaped(tmp_path: Path, save_steps: Save) -> None:
    save_steps(1, 2, name="run\n\x1b[31mX\u202e step_{step}.pt")
    (tmp_path / "bad\x1b]0;title\x07step_3.pt").write_bytes(b"no zip")

    result = run(tmp_path)

    assert result.exit_code == 0
    assert r"step 2  run\n\x1b[31mX\u202e step_2.pt" in result.stdout
    assert r"skipped bad\x1b]0;title\x07step_3.pt: not a zip file" in result.stderr
    assert all(line.isprintable() for line in result.output.split("\n"))


def test_a_dry_run_writes_nothing(tmp_path: Path, save_steps: Save) -> None:
    save_steps(100, 20, 3)

    result = run(tmp_path, "--dry-run", "--json", "--method", "wsm-linear", "--to-step", "50")

    plan = json.loads(result.stdout)
    assert [source["step"] for source in plan["sources"]] == [3, 20]
    assert [source["weight"] for source in plan["sources"]] == [0.5, 0.5]
    assert plan["output"] == str(tmp_path / "averaged_model.pt")
    assert not (tmp_path / "averaged_model.pt").exists()
    assert run(tmp_path, "--dry-run").stdout.count("step_") == 3


def test_json_is_what_lies_beside_the_average(tmp_path: Path, save_steps: Save) -> None:
    save_steps(1, 2)

    result = run(tmp_path, "--json")

    assert json.loads(result.stdout) == json.loads((tmp_path / "averaged_model.json").read_text())


def test_safetensors_are_found_without_a_pattern_and_it_says_so(tmp_path: Path) -> None:
    for step in (1, 3):
        tensors = {"w": torch.full((3,), float(step))}
        save_file(tensors, tmp_path / f"step_{step}.safetensors")

    result = run(tmp_path)

    assert "using *.safetensors" in result.stderr
    averaged = load_file(tmp_path / "averaged_model.safetensors")
    assert torch.equal(averaged["w"], torch.full((3,), 2.0))
    assert "no checksums" in result.stdout


def test_steps_that_leave_nothing_are_named(tmp_path: Path, save_steps: Save) -> None:
    save_steps(1, 2)

    none = run(tmp_path, "--from-step", "3", "--every", "2")
    impossible = run(tmp_path, "--from-step", "3", "--to-step", "2")

    assert (none.exit_code, impossible.exit_code) == (1, 1)
    assert "0 usable checkpoints of steps from 3, in multiples of 2 match" in none.stderr
    assert "--from-step 3 comes after --to-step 2" in impossible.stderr


def test_a_skipped_file_is_named_on_standard_error(tmp_path: Path, save_steps: Save) -> None:
    save_steps(1, 2)
    (tmp_path / "step_3.pt").write_bytes(b"PK\x03\x04 half")

    result = run(tmp_path)

    assert result.exit_code == 0
    assert "skipped step_3.pt: " in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nowhere",), "cannot be read"),
        ((), "0 usable checkpoints match *.pt, checkpoint-*/"),
        (("--best", "loss"), "--best loss needs --mode min or --mode max"),
        (("--mode", "min"), "--mode belongs to --best METRIC"),
        (("--best", "loss", "--mode", "min"), "step_2.pt: states no 'loss'"),
        (("--method", "ema", "--decay", "2"), "decay is 2.0"),
        (("--decay", "0.5"), "--decay belongs to --method ema; uniform has none"),
        (("--checkpoint-dir", "/other"), "--checkpoint-dir /other: give one of them"),
    ],
)
def test_an_error_is_one_line_and_exit_code_one(
    tmp_path: Path, save_steps: Save, arguments: tuple[str, ...], message: str
) -> None:
    directory = tmp_path
    if arguments[:1] == ("nowhere",):
        directory, arguments = tmp_path / "nowhere", ()
    elif arguments:
        save_steps(1, 2)

    result = run(directory, *arguments)

    assert result.exit_code == 1
    assert message in result.stderr
    assert result.stderr.startswith("trackside average: ")
    assert result.stderr.count("\n") == 1


def test_one_directory_may_be_given_twice(tmp_path: Path, save_steps: Save) -> None:
    save_steps(1, 2)

    assert run(tmp_path, "--checkpoint_dir", tmp_path).exit_code == 0


def test_a_newest_checkpoint_that_fits_no_other_is_called_the_culprit(
    tmp_path: Path, save_steps: Save
) -> None:
    save_steps(1, 2)
    save_steps(3, make=lambda _: {"weight": torch.zeros(2)})

    result = run(tmp_path)

    assert result.exit_code == 1
    assert (
        "step_3.pt, the first choice, differs from 2 others: move it away, or leave it out with "
        "--to-step 2, to average them"
    ) in result.stderr
    assert "--pattern" not in result.stderr
    assert run(tmp_path, "--to-step", "2").exit_code == 0


def test_of_two_that_differ_none_is_the_culprit(tmp_path: Path, save_steps: Save) -> None:
    save_steps(1)
    save_steps(2, make=lambda _: {"weight": torch.zeros(2)})

    result = run(tmp_path)

    assert result.exit_code == 1
    assert "move it away" not in result.stderr


def test_what_belongs_to_one_step_is_said_to_be_left_out(tmp_path: Path, save_steps: Save) -> None:
    save_steps(1, 2, wrap=lambda step, state: {"model": state, "optimizer": {"step": step}})

    assert "left out: optimizer" in run(tmp_path).stdout


def save_directory(out: Path, step: int, *, is_finished: bool = True) -> None:
    directory = out / f"checkpoint-{step}"
    directory.mkdir()
    save_file({"w": torch.full((3,), float(step))}, directory / "model.safetensors")
    if is_finished:
        (directory / "trainer_state.json").write_text(json.dumps({"global_step": step}))


def test_directories_of_the_trainer_come_before_its_final_model(tmp_path: Path) -> None:
    save_file({"w": torch.zeros(3)}, tmp_path / "model.safetensors")
    for step in (100, 90):
        save_directory(tmp_path, step)
    save_directory(tmp_path, 110, is_finished=False)

    result = run(tmp_path)

    assert result.exit_code == 0
    assert "using checkpoint directories" in result.stderr
    assert "skipped checkpoint-110: not complete: no trainer_state.json" in result.stderr
    assert f"into {tmp_path}/averaged in" in result.stdout
    assert "left out: trainer_state.json" in result.stdout
    averaged = load_file(tmp_path / "averaged" / "model.safetensors")
    assert torch.equal(averaged["w"], torch.full((3,), 95.0))
    assert not (tmp_path / "averaged_model.pt").exists()


def test_pt_files_are_the_default_also_beside_directories(tmp_path: Path, save_steps: Save) -> None:
    states = save_steps(1, 2)
    for step in (90, 100):
        save_directory(tmp_path, step)

    assert run(tmp_path).exit_code == 0

    averaged = torch.load(tmp_path / "averaged_model.pt", weights_only=True)
    expected = (states[0]["bias"].double() + states[1]["bias"].double()) / 2
    assert torch.equal(averaged["bias"], expected.float())
    assert not (tmp_path / "averaged").exists()


def test_files_that_are_no_checkpoints_do_not_decide_the_pattern(tmp_path: Path) -> None:
    for step in (90, 100):
        save_directory(tmp_path, step)
    torch.save([1, 2], tmp_path / "vocab.pt")

    result = run(tmp_path)

    assert result.exit_code == 0
    assert "skipped vocab.pt: " in result.stderr
    assert "using checkpoint directories" in result.stderr
    assert (tmp_path / "averaged" / "model.safetensors").exists()
    assert not (tmp_path / "averaged_model.pt").exists()


def test_an_error_says_which_patterns_were_looked_at(tmp_path: Path, save_steps: Save) -> None:
    torch.save([1, 2], tmp_path / "vocab.pt")
    none = run(tmp_path)
    save_directory(tmp_path, 90)
    save_steps(1)
    one = run(tmp_path)

    assert "0 usable checkpoints match *.pt, checkpoint-*/, *.safetensors" in none.stderr
    assert "skipped vocab.pt: " in none.stderr
    assert "1 usable checkpoints match *.pt, 2 are needed" in one.stderr
    assert "--pattern chooses others, such as checkpoint-*/" in one.stderr


def test_the_first_pattern_that_has_enough_is_taken(tmp_path: Path, save_steps: Save) -> None:
    save_steps(1, name="best.pt")
    states = save_steps(2, 3, name="epoch=0-step={step}.ckpt")

    result = run(tmp_path)

    assert result.exit_code == 0
    assert "using *.ckpt" in result.stderr
    averaged = torch.load(tmp_path / "averaged_model.pt", weights_only=True)
    expected = (states[0]["bias"].double() + states[1]["bias"].double()) / 2
    assert torch.equal(averaged["bias"], expected.float())


def test_a_pattern_chooses_directories_beside_files(tmp_path: Path, save_steps: Save) -> None:
    save_steps(1, 2)
    for step in (90, 100):
        save_directory(tmp_path, step)

    assert run(tmp_path, "--pattern", "checkpoint-*/").exit_code == 0
    assert (tmp_path / "averaged").exists()
    assert not (tmp_path / "averaged_model.pt").exists()


def test_a_dry_run_of_directories_names_the_directory(tmp_path: Path) -> None:
    for step in (90, 100):
        save_directory(tmp_path, step)

    plan = json.loads(run(tmp_path, "--dry-run", "--json").stdout)

    assert plan["output"] == str(tmp_path / "averaged")
    assert [source["name"] for source in plan["sources"]] == ["checkpoint-90", "checkpoint-100"]


@pytest.mark.parametrize("name", ["checkpoint-best", "checkpoints_mean"])
def test_an_output_that_rotation_would_delete_or_trip_over_is_refused(
    tmp_path: Path, name: str
) -> None:
    for step in (90, 100):
        save_directory(tmp_path, step)

    result = run(tmp_path, "--output-name", name)

    assert result.exit_code == 1
    assert "rotation deletes" in result.stderr


def test_a_file_may_be_named_like_that(tmp_path: Path, save_steps: Save) -> None:
    save_steps(1, 2)

    assert run(tmp_path, "--output-name", "checkpoint-best.pt").exit_code == 0
    assert (tmp_path / "checkpoint-best.pt").exists()


def test_a_checkpoint_is_never_replaced_by_an_average_of_the_others(
    tmp_path: Path, save_steps: Save
) -> None:
    save_steps(1, 2, 3)
    before = (tmp_path / "step_3.pt").read_bytes()

    result = run(tmp_path, "--output-name", "step_3.pt")

    assert result.exit_code == 1
    assert "no average of trackside" in result.stderr
    assert (tmp_path / "step_3.pt").read_bytes() == before


def test_a_json_file_of_another_is_not_taken_for_provenance(
    tmp_path: Path, save_steps: Save
) -> None:
    save_steps(1, 2)
    (tmp_path / "config.json").write_text("{}")

    result = run(tmp_path, "--output-name", "config.pt")

    assert result.exit_code == 1
    assert (tmp_path / "config.json").read_text() == "{}"
    assert not (tmp_path / "config.pt").exists()


def test_an_own_average_is_replaced_under_any_name(tmp_path: Path, save_steps: Save) -> None:
    save_steps(1, 2)

    codes = [run(tmp_path, "--output-name", "mine.pt").exit_code for _ in range(2)]

    assert codes == [0, 0]


@pytest.mark.parametrize("name", ["../mine.pt", "elsewhere/mine.pt", "/mine.pt", "", ".", ".."])
def test_an_output_elsewhere_is_refused(tmp_path: Path, save_steps: Save, name: str) -> None:
    directory = tmp_path / "run"
    directory.mkdir()
    save_steps(1, 2, name="run/step_{step}.pt")

    result = run(directory, "--output-name", name)

    assert result.exit_code == 1
    assert "give a name without a directory" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
