"""`trackside report` as a user types it."""

import json
import math
import os
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from closed_directory import close_directory
from training_logs import eval_row, make_alert, train_row, write_run, write_state

from tracksided.cli.group import group
from tracksided.sinks.alerts import AlertsFile

ROWS = [*(train_row(step, 4.0 - step / 20) for step in range(5, 65, 5)), eval_row(60, 1.5)]


def run(*arguments: str | Path) -> Result:
    result = CliRunner().invoke(group, ["report", *map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result


def line(output: str, label: str) -> str:
    return next(row for row in output.splitlines() if row.strip().startswith(label))


def test_summary_says_what_is_known_and_what_is_not(tmp_path: Path) -> None:
    write_state(tmp_path / "checkpoint-60", ROWS)

    output = run("-c", tmp_path / "checkpoint-60").stdout

    assert f"{tmp_path.name}/checkpoint-60" in output.splitlines()[0]
    assert line(output, "step ").split() == ["step", "60", "of", "120", "(50.0", "%)"]
    assert line(output, "epoch").split() == ["epoch", "1.2", "of", "3", "(40.0", "%)"]
    assert line(output, "current").endswith("1 at step 60")
    assert line(output, "mean").endswith("2.375 of 12 values")  # (3.75 + 1.0) / 2
    assert line(output, "min").endswith("1 at step 60")
    assert line(output, "max").endswith("3.75 at step 5")
    # 12 values on a line from 3.75 to 1: the first three around 3.5, the last three around 1.25.
    trend = "falling, -64.3 % over the newest 12 values, since step 5"
    assert line(output, "trend").endswith(trend)
    assert line(output, "score").split()[1] == "0,"
    assert line(output, "advice").split(maxsplit=1)[1].startswith("The loss still falls by 64.3%")
    assert "1.5 at step 60" in line(output, "eval_loss")
    assert line(output, "steps per second").split()[-1] == "unknown"
    assert line(output, "tokens ").split()[-1] == "unknown"


def test_json_holds_the_same_and_is_strict(tmp_path: Path) -> None:
    write_state(tmp_path, [train_row(5, 2.0), train_row(10, math.nan)])

    def refuse(constant: str) -> None:
        raise ValueError(constant)

    found = json.loads(run("-c", tmp_path, "--json").stdout, parse_constant=refuse)

    assert found["progress"]["step_percent"] == 50.0
    assert found["loss"]["current"] is None
    assert (found["loss"]["nonfinite"], found["loss"]["minimum"]) == (1, 2.0)
    assert found["speed"]["steps_per_second"] is None
    assert found["source"] == str(tmp_path / "trainer_state.json")


def test_run_of_trackside_shows_its_statistics_and_alerts(tmp_path: Path) -> None:
    write_run(tmp_path, [{"step": 10, "clip_rate": 0.25}])
    file = AlertsFile(tmp_path)
    file.add([make_alert(step=step, message=f"loss {step}") for step in (10, 20)])
    file.close()

    output = run("-c", tmp_path).stdout

    assert line(output, "clip rate").split()[-1] == "0.25"
    assert line(output, "loss_spike").split(maxsplit=1)[1] == "2, the last at step 20: loss 20"
    document = json.loads(run("-c", tmp_path, "--json").stdout)
    assert [alert["step"] for alert in document["alerts"]] == [10, 20]
    assert document["statistics"]["clip rate"] == 0.25


def test_default_is_the_newest_run_under_outputs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_run(tmp_path / "outputs" / "run", [{"step": 10}])
    monkeypatch.chdir(tmp_path)

    output = run().stdout

    assert output.startswith("run  (outputs/run/history.jsonl)")
    assert run("outputs").stdout == output


def test_where_only_runs_of_trackside_lie_their_directory_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_state(tmp_path / "trackside_logs" / "run", ROWS)
    monkeypatch.chdir(tmp_path)

    by_default, as_named = run(), run("-o", "trackside_logs")

    assert by_default.exit_code == 1
    assert "for runs of trackside: -o trackside_logs" in by_default.stderr
    assert as_named.exit_code == 0


def test_latest_checkpoint_is_the_one_of_the_largest_step(tmp_path: Path) -> None:
    for step in (90, 100):
        write_state(tmp_path / f"checkpoint-{step}", ROWS, global_step=step)

    assert json.loads(run("-o", tmp_path, "-l", "--json").stdout)["progress"]["step"] == 100
    assert json.loads(run("-c", tmp_path, "-l", "--json").stdout)["progress"]["step"] == 100


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-c", "missing"], "missing does not exist"),
        (["-c", "empty"], "empty has no trainer_state.json, history.jsonl or TensorBoard"),
        (["-o", "missing"], "missing does not exist; name one with -o"),
        (["-o", "empty", "-l"], "empty has no checkpoint-N with a trainer_state.json"),
        ([], "outputs does not exist; name one with -o"),
        (["-o", "file"], "file is no directory"),
        (["-c", "x" * 300], "cannot be read: File name too long"),
        (["-c", "closed/run"], "closed/run cannot be read: Permission denied"),
        (["-o", "closed/runs"], "closed/runs cannot be read: Permission denied"),
        (["-c", "closed/run", "-l"], "closed/run has no checkpoint-N"),
        (["a", "b"], "several directories can only be compared"),
        (["-c", "torn"], "torn/trainer_state.json is not valid JSON"),
        (["-c", "fieldless"], "fieldless/trainer_state.json has no 'log_history'"),
    ],
)
def test_what_is_missing_is_named_on_one_line_with_exit_code_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    close_directory(Path("closed"), monkeypatch)
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "trainer_state.json").write_text("{")
    (tmp_path / "fieldless").mkdir()
    (tmp_path / "fieldless" / "trainer_state.json").write_text('{"global_step": 1}')
    monkeypatch.chdir(tmp_path)

    result = run(*arguments)

    assert result.exit_code == 1
    assert result.stdout == ""
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_state_without_a_loss_shows_the_rest_and_names_it(tmp_path: Path) -> None:
    write_state(tmp_path, [{"step": 5, "learning_rate": 1e-3}])

    result = run("-c", tmp_path)

    assert result.exit_code == 1
    assert line(result.stdout, "loss").split() == ["loss", "unknown"]
    assert line(result.stdout, "learning rate").split()[2] == "0.001,"
    assert result.stderr.endswith("trainer_state.json has no loss yet\n")


@pytest.mark.parametrize("is_comparison", [False, True])
def test_no_name_or_setting_reaches_the_terminal_as_a_command(
    tmp_path: Path, *, is_comparison: bool
) -> None:
    hostile = "\x1b]0;a\x07\u202e\n"
    paths = [tmp_path / f"{hostile}{number}" for number in range(2)]
    for number, path in enumerate(paths):
        rows = [*ROWS, {"step": 60, f"eval_{hostile}": 1.0}]
        write_state(path, rows, save_steps=f"{hostile}{number}")

    found = run("--compare", *paths) if is_comparison else run("-c", paths[0])
    missing = run("-c", tmp_path / f"missing{hostile}")

    assert found.exit_code == 0
    assert "\\x1b]0;a\\x07\\u202e\\n" in found.output
    for output in (found.output, missing.output):
        assert all(map(str.isprintable, output.split("\n")))


def test_name_that_is_not_utf8_is_printed_with_question_marks(tmp_path: Path) -> None:
    directory = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe"))
    write_state(directory, ROWS)

    result = run("-c", directory)

    assert result.exit_code == 0
    assert result.stdout.startswith("??  (")
