"""Checkpoints that somebody protects by their modes are averaged, and leave nothing behind."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from averaged_directory import others, save_step, weight

pytestmark = pytest.mark.integration

DEADLINE_S = 60
READ_ONLY = 0o555
# Root passes over modes. Without this it owns files like everybody else.
OVERRIDE = "-dac_override,-dac_read_search"
BOUND = ("setpriv", f"--bounding-set={OVERRIDE}") if os.geteuid() == 0 else ()


def average(directory: Path) -> str:
    """Average the newest two as a user for whom modes count; return what is said."""
    options = ("--num-checkpoints", "2", "--pattern", "checkpoint-*/")
    done = subprocess.run(
        [*BOUND, sys.executable, "-m", "tracksided", "average", directory, *options],
        capture_output=True,
        check=False,
        text=True,
        timeout=DEADLINE_S,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


def protect(checkpoint: Path) -> None:
    nested = checkpoint / "1_Pooling"
    nested.mkdir()
    (nested / "config.json").write_text('{"of": "the average"}')
    nested.chmod(READ_ONLY)
    checkpoint.chmod(READ_ONLY)


def test_an_average_of_read_only_directories_is_replaced_whole(tmp_path: Path) -> None:
    output = tmp_path / "averaged"
    for step in (1, 2, 3, 4):
        save_step(tmp_path, step)
        protect(tmp_path / f"checkpoint-{step}")
    average(tmp_path)
    assert stat.S_IMODE(output.stat().st_mode) == READ_ONLY
    assert stat.S_IMODE((output / "1_Pooling").stat().st_mode) == READ_ONLY
    (output / "1_Pooling").chmod(0o755)
    (output / "1_Pooling" / "notes.txt").write_text("mine")
    save_step(tmp_path, 5)
    protect(tmp_path / "checkpoint-5")

    told = average(tmp_path)

    assert "cannot be moved" not in told
    assert weight(output) == 4.5
    assert others(output) == {
        "1_Pooling/config.json": '{"of": "the average"}',
        "1_Pooling/notes.txt": "mine",
    }
    assert stat.S_IMODE(output.stat().st_mode) == READ_ONLY
    assert {path.name for path in tmp_path.iterdir()} == {
        "averaged",
        *(f"checkpoint-{step}" for step in range(1, 6)),
    }


@pytest.mark.parametrize("mode", [0o555, 0o500, 0o111, 0o000])
def test_a_protected_directory_that_somebody_put_into_the_average_moves_along(
    tmp_path: Path, mode: int
) -> None:
    output = tmp_path / "averaged"
    for step in (1, 2):
        save_step(tmp_path, step)
    average(tmp_path)
    (output / "results").mkdir()
    (output / "results" / "notes.txt").write_text("mine")
    (output / "results").chmod(mode)
    save_step(tmp_path, 3)

    told = average(tmp_path)

    moved = stat.S_IMODE((output / "results").stat().st_mode)
    (output / "results").chmod(0o700)
    assert moved == mode
    assert (output / "results" / "notes.txt").read_text() == "mine"
    assert weight(output) == 2.5
    assert "cannot be moved" not in told
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]
