"""What somebody puts into a directory within `averaged/`; links and signals that come between."""

import json
import shutil
import zlib
from pathlib import Path

import pytest
from averaged_directory import average, make_average, others, put, save_step, weight
from debris import debris

from tracksided.checkpoints import publish_directory
from tracksided.checkpoints.naming import aside_name
from tracksided.checkpoints.sweeping import sweep
from tracksided.errors import OutputError


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return make_average(tmp_path)


def put_nested(output: Path) -> None:
    """Let the average have written a directory, and somebody a file into it."""
    text = "of the average"
    put(output / "1_Pooling" / "config.json", text)
    described = json.loads((output / "averaging.json").read_text())
    described["files"].append("1_Pooling/config.json")
    described["carried"]["1_Pooling/config.json"] = f"crc32:{zlib.crc32(text.encode()):08x}"
    put(output / "averaging.json", json.dumps(described))
    put(output / "1_Pooling" / "notes.txt", "mine")


def test_a_directory_that_moves_along_in_part_keeps_its_mode(tmp_path: Path, output: Path) -> None:
    put_nested(output)
    (output / "1_Pooling").chmod(0o750)
    save_step(tmp_path, 3)

    average(tmp_path)

    assert others(output) == {"1_Pooling/notes.txt": "mine"}
    assert (output / "1_Pooling").stat().st_mode & 0o777 == 0o750


def test_what_moves_along_is_no_more_open_than_it_was(tmp_path: Path, output: Path) -> None:
    hidden = tmp_path / aside_name("averaged")
    shutil.copytree(output, hidden)
    put_nested(hidden)
    (hidden / "1_Pooling").chmod(0o750)
    put(output / "1_Pooling" / "config.json", "of the new average")
    (output / "1_Pooling").chmod(0o755)

    assert sweep(tmp_path) == 1

    assert (output / "1_Pooling" / "notes.txt").read_text() == "mine"
    assert (output / "1_Pooling").stat().st_mode & 0o777 == 0o750


def test_nothing_moves_through_a_link(
    tmp_path: Path, output: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hidden = tmp_path / aside_name("averaged")
    shutil.copytree(output, hidden)
    put_nested(hidden)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (output / "1_Pooling").symlink_to(elsewhere)

    assert sweep(tmp_path) == 0

    assert list(elsewhere.iterdir()) == []
    assert (hidden / "1_Pooling" / "notes.txt").read_text() == "mine"
    assert f"{hidden}/1_Pooling/notes.txt cannot be moved into {output}" in caplog.text


def test_a_link_that_came_meanwhile_is_not_replaced(
    tmp_path: Path, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_step(tmp_path, 3)
    moved = tmp_path / "elsewhere"
    really_take_name = publish_directory._take_name

    def take_name(temporary: Path, path: Path) -> Path | None:
        path.rename(moved)
        path.symlink_to(moved)
        return really_take_name(temporary, path)

    monkeypatch.setattr(publish_directory, "_take_name", take_name)
    with pytest.raises(OutputError, match=r"averaged: writing failed: Not a directory"):
        average(tmp_path)

    assert output.is_symlink()
    assert weight(moved) == 1.5
    assert debris(tmp_path) == []


def test_a_signal_right_after_the_exchange_deletes_nothing(
    tmp_path: Path, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(output / "notes.txt", "mine")
    save_step(tmp_path, 3)
    really_exchange = publish_directory.exchange

    def exchange(one: Path, other: Path) -> bool:
        really_exchange(one, other)
        raise SystemExit(143)

    with monkeypatch.context() as patched:
        patched.setattr(publish_directory, "exchange", exchange)
        with pytest.raises(SystemExit):
            average(tmp_path)

    assert weight(output) == 2.5
    assert sweep(tmp_path) == 1
    assert others(output) == {"notes.txt": "mine"}
    assert debris(tmp_path) == []
