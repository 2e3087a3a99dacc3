"""What somebody puts into `averaged/` is there after the next average, whatever it is called."""

import errno
import json
import os
import shutil
from pathlib import Path

import pytest
from averaged_directory import (
    OWN,
    average,
    config,
    make_average,
    others,
    put,
    request,
    save_step,
    weight,
)
from debris import debris

from tracksided.checkpoints import publish_directory, renaming, replaced
from tracksided.checkpoints.job import Unchanged, run_average
from tracksided.checkpoints.naming import aside_name
from tracksided.checkpoints.sweeping import sweep


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return make_average(tmp_path)


@pytest.fixture(params=["exchange", "aside"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways to take a name: in one exchange, or after the old one has stepped aside."""
    if request.param == "aside":
        monkeypatch.setattr(publish_directory, "exchange", lambda *_: False)
        monkeypatch.setattr(renaming, "_rename", lambda *_: False)
    return str(request.param)


def test_the_description_names_the_files_of_the_average(output: Path) -> None:
    described = json.loads((output / "averaging.json").read_text())

    assert {*described["files"], "averaging.json"} == OWN
    assert described["output_bytes"] == sum(
        (output / name).stat().st_size for name in described["files"]
    )


@pytest.mark.usefixtures("way")
def test_files_and_directories_of_others_move_along(tmp_path: Path, output: Path) -> None:
    mine = {"notes.txt": "mine", ".hidden": "too", "eval/deep/scores.json": "0.9"}
    for name, text in mine.items():
        put(output / name, text)
    (output / "best").symlink_to("checkpoint-2")

    for step in (3, 4):
        save_step(tmp_path, step)
        average(tmp_path)

    assert weight(output) == 3.5
    assert (output / "config.json").read_text() == config(4)
    assert others(output) == mine
    assert (output / "best").readlink() == Path("checkpoint-2")
    assert debris(tmp_path) == []


def test_an_average_beside_which_something_was_put_is_still_current(
    tmp_path: Path, output: Path
) -> None:
    put(output / "eval" / "scores.json", "0.9")
    put(output / "notes.txt", "mine")

    assert isinstance(run_average(request(tmp_path)), Unchanged)
    (output / "config.json").unlink()
    average(tmp_path)
    assert (output / "config.json").read_text() == config(2)
    assert others(output) == {"eval/scores.json": "0.9", "notes.txt": "mine"}


@pytest.mark.usefixtures("way")
def test_what_has_the_name_of_a_new_file_is_kept_under_another(
    tmp_path: Path, output: Path, caplog: pytest.LogCaptureFixture
) -> None:
    put(output / "tokenizer.json", "mine")
    put(output / "vocab.json" / "inside", "a directory")
    put(output / "tokenizer.json.kept", "mine as well")
    save_step(tmp_path, 3, tokenizer="of the model", vocab="of the model")

    average(tmp_path)

    assert others(output) == {
        "tokenizer.json": "of the model",
        "tokenizer.json.kept": "mine as well",
        "tokenizer.json.kept2": "mine",
        "vocab.json": "of the model",
        "vocab.json.kept/inside": "a directory",
    }
    told = f"{output}/tokenizer.json is a file of the new average; the one that was there is kept"
    assert told in caplog.text


def test_a_small_file_of_the_average_that_was_edited_is_kept_unless_the_new_one_is_like_it(
    tmp_path: Path, output: Path
) -> None:
    put(output / "config.json", "edited")
    save_step(tmp_path, 3)
    average(tmp_path)
    assert others(output) == {"config.json.kept": "edited"}

    put(output / "config.json", config(4))
    save_step(tmp_path, 4)
    average(tmp_path)

    assert others(output) == {"config.json.kept": "edited"}
    assert (output / "config.json").read_text() == config(4)


def test_files_that_only_the_old_average_had_go(tmp_path: Path) -> None:
    save_step(tmp_path, 1, tokenizer="of the first")
    save_step(tmp_path, 2, tokenizer="of the first")
    average(tmp_path)
    output = tmp_path / "averaged"
    assert others(output) == {"tokenizer.json": "of the first"}

    save_step(tmp_path, 3)
    average(tmp_path)

    assert others(output) == {}


def test_of_an_average_that_lists_no_files_what_the_new_one_has_is_replaced(
    tmp_path: Path, output: Path
) -> None:
    put(output / "notes.txt", "mine")
    described = json.loads((output / "averaging.json").read_text())
    del described["files"]
    put(output / "averaging.json", json.dumps(described))
    save_step(tmp_path, 3)

    average(tmp_path)

    assert others(output) == {"notes.txt": "mine"}
    assert weight(output) == 2.5
    assert debris(tmp_path) == []


def test_a_directory_of_somebody_that_came_meanwhile_is_not_lost(
    tmp_path: Path, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_step(tmp_path, 3)
    really_take_name = publish_directory._take_name

    def take_name(temporary: Path, path: Path) -> Path | None:
        shutil.rmtree(path)
        put(path / "config.json", "mine")
        put(path / "thesis.txt", "mine, too")
        return really_take_name(temporary, path)

    monkeypatch.setattr(publish_directory, "_take_name", take_name)
    average(tmp_path)

    assert others(output) == {"config.json.kept": "mine", "thesis.txt": "mine, too"}
    assert weight(output) == 2.5


def test_what_cannot_be_moved_stays_and_is_moved_by_the_next(
    tmp_path: Path, output: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    put(output / "notes.txt", "mine")
    save_step(tmp_path, 3)

    def refuse(*_: Path) -> bool:
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))

    with monkeypatch.context() as patched:
        patched.setattr(replaced, "rename_to_free", refuse)
        average(tmp_path)

    assert others(output) == {}
    (left,) = debris(tmp_path)
    assert {path.name for path in (tmp_path / left).iterdir()} == {"averaging.json", "notes.txt"}
    assert "notes.txt cannot be moved into" in caplog.text
    assert sweep(tmp_path) == 1
    assert others(output) == {"notes.txt": "mine"}
    assert debris(tmp_path) == []


def test_sweep_moves_along_what_a_killed_writer_did_not(tmp_path: Path, output: Path) -> None:
    hidden = tmp_path / aside_name("averaged")
    shutil.copytree(output, hidden)
    put(hidden / "notes.txt", "mine")

    assert sweep(tmp_path) == 1

    assert others(output) == {"notes.txt": "mine"}
    assert debris(tmp_path) == []


def test_sweep_leaves_what_cannot_go_to_its_place(tmp_path: Path, output: Path) -> None:
    hidden = tmp_path / aside_name("averaged")
    output.rename(hidden)
    put(hidden / "notes.txt", "mine")
    put(output, "a file of somebody")

    assert sweep(tmp_path) == 0

    assert {path.name for path in hidden.iterdir()} == {*OWN, "notes.txt"}
    assert output.read_text() == "a file of somebody"


def test_sweep_moves_along_a_directory_of_somebody_that_was_replaced(
    tmp_path: Path, output: Path
) -> None:
    put(tmp_path / aside_name("averaged") / "thesis.txt", "mine")

    assert sweep(tmp_path) == 1

    assert others(output) == {"thesis.txt": "mine"}
    assert debris(tmp_path) == []


def test_what_comes_while_the_replaced_directory_is_removed_is_moved_by_the_next(
    tmp_path: Path, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    really_rmdir = Path.rmdir

    def rmdir(self: Path) -> None:
        put(self / "late.txt", "mine")
        really_rmdir(self)

    save_step(tmp_path, 3)
    with monkeypatch.context() as patched:
        patched.setattr(Path, "rmdir", rmdir)
        average(tmp_path)
    (left,) = debris(tmp_path)
    assert [path.name for path in (tmp_path / left).iterdir()] == ["late.txt"]

    assert sweep(tmp_path) == 1

    assert others(output) == {"late.txt": "mine"}
    assert debris(tmp_path) == []


def test_an_edit_is_told_by_what_is_in_the_file(tmp_path: Path, output: Path) -> None:
    of_average = (output / "config.json").stat()
    put(output / "config.json", config(9))  # as long as that of step 2
    os.utime(output / "config.json", ns=(of_average.st_atime_ns, of_average.st_mtime_ns))
    (output / "averaging.json").write_bytes((output / "averaging.json").read_bytes())
    save_step(tmp_path, 3)

    average(tmp_path)

    assert others(output) == {"config.json.kept": config(9)}


def test_a_file_that_was_written_again_as_it_was_is_no_edit(tmp_path: Path, output: Path) -> None:
    put(output / "config.json", config(2))
    save_step(tmp_path, 3)

    average(tmp_path)

    assert others(output) == {}
    assert (output / "config.json").read_text() == config(3)
