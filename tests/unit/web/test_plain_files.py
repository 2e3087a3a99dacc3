import os
from pathlib import Path

import pytest

from tracksided.web.pictures import picture_names, read_picture
from tracksided.web.plain_files import list_plain, open_plain

PNG = b"\x89PNG\r\n\x1a\n picture"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with one step, and a secret beside it."""
    (tmp_path / "secret.png").write_bytes(b"secret")
    folder = tmp_path / "run" / "step_10"
    folder.mkdir(parents=True)
    (folder / "decoder_layer0_self_attn.png").write_bytes(PNG)
    (folder / "statistics.json").write_text("{}", encoding="utf-8")
    return tmp_path / "run"


def test_a_picture_of_a_step_is_read(run: Path):
    found = read_picture(run, "step_10", "decoder_layer0_self_attn.png")

    assert found is not None
    assert found.content == PNG
    assert picture_names(run, "step_10") == ["decoder_layer0_self_attn.png"]


def test_a_picture_that_is_written_anew_has_another_version(run: Path):
    name = "decoder_layer0_self_attn.png"
    before = read_picture(run, "step_10", name)
    os.utime(run / "step_10" / name, ns=(1, 1))

    after = read_picture(run, "step_10", name)

    assert before is not None
    assert after is not None
    assert before.version != after.version


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("..", "secret.png"),
        ("step_10", "../../secret.png"),
        ("step_10/..", "secret.png"),
        ("step_10", "statistics.json"),
        ("step_10", "missing.png"),
        ("step_11", "decoder_layer0_self_attn.png"),
        ("step_10", ""),
        ("step_10\0", "decoder_layer0_self_attn.png"),
        ("step_10\n", "decoder_layer0_self_attn.png"),
    ],
)
def test_nothing_else_is_read(run: Path, folder: str, name: str):
    assert read_picture(run, folder, name) is None


@pytest.mark.parametrize("place", ["file", "folder"])
def test_links_are_not_followed(run: Path, place: str):
    if place == "file":
        (run / "step_10" / "link.png").symlink_to(run.parent / "secret.png")
        wanted = ("step_10", "link.png")
    else:
        (run / "step_11").symlink_to(run.parent)
        wanted = ("step_11", "secret.png")

    assert read_picture(run, *wanted) is None


def test_a_pipe_is_no_file_and_is_not_waited_for(run: Path):
    os.mkfifo(run / "history.jsonl")

    assert open_plain(run, "history.jsonl") is None


def test_a_folder_is_no_file(run: Path):
    assert open_plain(run, "step_10") is None


@pytest.mark.parametrize("name", ["..", ".", "", "a/b", "a\0"])
def test_a_name_of_more_than_one_component_is_an_error(run: Path, name: str):
    with pytest.raises(ValueError, match="is not the name of one file"):
        open_plain(run, name)
    with pytest.raises(ValueError, match="is not the name of one file"):
        list_plain(run, name)


def test_a_run_that_is_gone_has_no_files(tmp_path: Path):
    assert open_plain(tmp_path / "gone", "history.jsonl") is None
    assert list_plain(tmp_path / "gone") == []


def test_no_descriptor_is_left_open(run: Path):
    before = len(list(Path("/proc/self/fd").iterdir()))

    for _ in range(3):
        read_picture(run, "step_10", "decoder_layer0_self_attn.png")
        read_picture(run, "step_10", "missing.png")
        list_plain(run, "step_10")
        open_plain(run, "step_10")

    assert len(list(Path("/proc/self/fd").iterdir())) == before
