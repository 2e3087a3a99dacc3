"""`trackside report` with pictures, as a user types it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from PIL import Image
from training_logs import train_row, write_run, write_state

from tracksided.cli.group import group

pytestmark = pytest.mark.integration

ROWS = [train_row(step, 4.0 - step / 20) for step in range(5, 65, 5)]


def run(*arguments: str | Path) -> Result:
    result = CliRunner().invoke(group, ["report", *map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result


def size(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


def test_plot_lies_in_the_run_not_in_its_checkpoint(tmp_path: Path) -> None:
    write_state(tmp_path / "checkpoint-60", ROWS)

    result = run("-p", "-c", tmp_path / "checkpoint-60")

    picture = tmp_path / "training_progress.png"
    assert result.stdout == f"curves: {picture}\n"
    assert size(picture) == (1375, 902)
    assert [path.name for path in (tmp_path / "checkpoint-60").iterdir()] == ["trainer_state.json"]


def test_summary_is_shown_too_where_it_is_asked_for(tmp_path: Path) -> None:
    write_run(tmp_path, [{"step": 10}])

    output = run("-u", "-p", "-s", tmp_path / "mine.svg", "-c", tmp_path).stdout

    assert "\nLoss\n" in output
    assert output.endswith(
        f"curves: {tmp_path / 'mine.svg'}\ncurves: {tmp_path / 'training_progress.png'}\n"
    )
    assert (tmp_path / "mine.svg").read_bytes().startswith(b"<?xml")


def test_unknown_extension_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    write_state(tmp_path, ROWS)

    result = run("-s", tmp_path / "plot.docx", "-c", tmp_path)

    assert result.exit_code == 1
    assert "cannot write a picture as 'docx'; known: " in result.stderr
    assert not (tmp_path / "plot.docx").exists()


def test_directory_that_is_missing_is_named(tmp_path: Path) -> None:
    write_state(tmp_path, ROWS)

    result = run("-s", tmp_path / "missing" / "plot.png", "-c", tmp_path)

    assert result.exit_code == 1
    assert f"cannot write {tmp_path / 'missing' / 'plot.png'}" in result.stderr
    assert "name another file" in result.stderr
    assert "save_dir" not in result.stderr  # it is the user who cannot write, not the daemon


def test_plot_goes_to_a_temporary_file_where_the_run_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_state(tmp_path / "run", ROWS)
    (tmp_path / "run" / "training_progress.png.trackside-tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    result = run("-p", "-c", tmp_path / "run")

    assert result.exit_code == 0
    assert "the curves go elsewhere" in result.stderr
    assert size(Path(result.stdout.removeprefix("curves: ").strip())) == (1375, 902)


def test_comparison_is_tabled_and_drawn(tmp_path: Path) -> None:
    for name, rate in (("a", 1e-3), ("b", 2e-3)):
        write_run(
            tmp_path / name,
            [{"step": 10 * i, "loss": rate * i} for i in range(1, 9)],
            config={"lr": rate, "seed": 1},
        )

    shown = run("--compare", tmp_path / "a", tmp_path / "b", "-s", tmp_path / "both.png")
    document = json.loads(run("--compare", tmp_path / "a", tmp_path / "b", "--json").stdout)

    rows = {row[:25].strip(): row.split()[-2:] for row in shown.stdout.splitlines()}
    assert rows["lr"] == ["0.001", "0.002"]
    assert rows["current"] == ["0.008", "0.016"]
    assert "seed" not in rows
    assert size(tmp_path / "both.png") == (1375, 902)
    assert document["different_settings"] == {"lr": {"a": 0.001, "b": 0.002}}
    assert [entry["progress"]["step"] for entry in document["runs"]] == [80, 80]


def test_summary_imports_no_matplotlib_and_a_terminal_gets_tables(tmp_path: Path) -> None:
    write_state(tmp_path, ROWS)
    code = (
        "import sys\n"
        "from tracksided.cli.group import group\n"
        f"group(['report', '-c', {str(tmp_path)!r}], standalone_mode=False)\n"
        "assert 'matplotlib' not in sys.modules and 'torch' not in sys.modules\n"
    )
    environ = {**os.environ, "FORCE_COLOR": "1", "COLUMNS": "100"}

    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environ, check=False
    )

    assert done.returncode == 0, done.stderr
    assert "\x1b[1m" in done.stdout
    assert "60 of 120 (50.0 %)" in done.stdout
