"""Pictures of the whole run: which there are, and in which version."""

import os
from pathlib import Path

from tracksided import overview
from tracksided.web.pictures import OVERVIEW_FOLDER, OverviewPictures, read_picture


def test_the_folder_is_the_one_that_is_written():
    assert overview.FOLDER == OVERVIEW_FOLDER


def test_names_and_versions_follow_the_folder(tmp_path: Path):
    pictures = OverviewPictures(tmp_path)
    assert pictures.read() == ()
    folder = tmp_path / OVERVIEW_FOLDER
    folder.mkdir()
    (folder / "entropy.png").write_bytes(b"one")
    (folder / "entropy.png.trackside-tmp").write_bytes(b"half")
    (folder / "link.png").symlink_to("/etc/passwd")

    before = pictures.read()
    (folder / "new.png").write_bytes(b"other")
    (folder / "new.png").replace(folder / "entropy.png")
    after = pictures.read()

    assert [name for name, _ in before] == [name for name, _ in after] == ["entropy.png"]
    assert before != after
    found = read_picture(tmp_path, OVERVIEW_FOLDER, "entropy.png")
    assert found is not None
    assert (found.content, found.version) == (b"other", after[0][1])
    assert read_picture(tmp_path, OVERVIEW_FOLDER, "link.png") is None


def test_a_folder_that_has_not_changed_is_not_read_again(tmp_path: Path):
    folder = tmp_path / OVERVIEW_FOLDER
    folder.mkdir()
    (folder / "entropy.png").write_bytes(b"one")
    os.utime(folder, ns=(0, 0))  # long ago
    pictures = OverviewPictures(tmp_path)
    before = pictures.read()

    (folder / "entropy.png").write_bytes(b"written in place, which nobody does")

    assert pictures.read() is before


def test_a_link_in_the_place_of_the_folder_is_not_followed(tmp_path: Path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "secret.png").write_bytes(b"not of this run")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / OVERVIEW_FOLDER).symlink_to(tmp_path / "elsewhere")

    assert OverviewPictures(tmp_path / "run").read() == ()
