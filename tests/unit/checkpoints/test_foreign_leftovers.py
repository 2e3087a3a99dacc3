"""What other users leave under names like ours is not touched, whoever averages there."""

import json
import os
from pathlib import Path

import pytest

from tracksided.checkpoints.naming import aside_name, temporary_name
from tracksided.checkpoints.provenance import KIND
from tracksided.checkpoints.sweeping import sweep

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")

SOMEBODY, NOBODY = 65_533, 65_534


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """Make a directory like /tmp, with one in it that belongs to root."""
    tmp_path.chmod(0o1777)
    (tmp_path / "service").mkdir()
    return tmp_path


def leave(path: Path, user: int) -> Path:
    """Leave a directory as if an average had been replaced there."""
    path.mkdir()
    (path / "averaging.json").write_text(json.dumps({"kind": KIND, "files": []}))
    (path / "evil.conf").write_text("evil")
    for each in (path, *path.iterdir()):
        os.chown(each, user, user)
    return path


def test_root_moves_nothing_of_others_into_its_own(shared: Path) -> None:
    aside = leave(shared / aside_name("service"), NOBODY)
    half = leave(shared / temporary_name("service"), NOBODY)
    file = shared / temporary_name("model.pt")
    file.touch()
    os.chown(file, NOBODY, NOBODY)

    assert sweep(shared) == 0

    assert list((shared / "service").iterdir()) == []
    for left in (aside, half):
        assert sorted(path.name for path in left.iterdir()) == ["averaging.json", "evil.conf"]
    assert file.exists()


def test_root_looks_after_those_of_the_owner_of_a_directory(tmp_path: Path) -> None:
    os.chown(tmp_path, NOBODY, NOBODY)
    output = leave(tmp_path / "averaged", NOBODY)
    aside = leave(tmp_path / aside_name("averaged"), NOBODY)
    (aside / "evil.conf").rename(aside / "notes.txt")
    half = leave(tmp_path / temporary_name("averaged"), NOBODY)
    foreign = leave(tmp_path / temporary_name("averaged"), SOMEBODY)

    assert sweep(tmp_path) == 2

    assert sorted(tmp_path.iterdir()) == sorted([output, foreign])
    assert (output / "notes.txt").read_text() == "evil"
    assert not half.exists()


def test_nothing_goes_to_the_directory_of_another_user(tmp_path: Path) -> None:
    os.chown(tmp_path, NOBODY, NOBODY)
    (tmp_path / "averaged").mkdir()  # of root
    aside = leave(tmp_path / aside_name("averaged"), NOBODY)

    assert sweep(tmp_path) == 0

    assert list((tmp_path / "averaged").iterdir()) == []
    assert (aside / "evil.conf").read_text() == "evil"
