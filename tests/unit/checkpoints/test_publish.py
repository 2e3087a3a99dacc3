"""A file that takes its name when it is whole."""

import errno
import os
from pathlib import Path

import pytest
from debris import debris

from tracksided.checkpoints import publish
from tracksided.checkpoints.publish import Publication, commit_together
from tracksided.checkpoints.sweeping import sweep
from tracksided.errors import OutputError


@pytest.fixture
def like(tmp_path: Path) -> Path:
    path = tmp_path / "newest.pt"
    path.touch()
    return path


@pytest.mark.parametrize(("mode", "expected"), [(0o444, 0o444), (0o4755, 0o755), (0o640, 0o640)])
def test_it_has_the_mode_of_its_source_and_never_the_rights_of_an_owner(
    tmp_path: Path, like: Path, mode: int, expected: int
) -> None:
    like.chmod(mode)
    with Publication(tmp_path / "average.pt", 8, like.stat()) as publication:
        publication.targets[0].write(b"averaged", 0)
        while_written = publication.temporary.stat().st_mode & 0o7777
        commit_together([publication])

    assert while_written == expected | 0o600
    assert (tmp_path / "average.pt").stat().st_mode & 0o7777 == expected
    assert (tmp_path / "average.pt").read_bytes() == b"averaged"


def test_all_its_space_is_taken_before_anything_is_written(tmp_path: Path, like: Path) -> None:
    with Publication(tmp_path / "average.pt", 1 << 20, like.stat()) as publication:
        found = os.fstat(publication.descriptor)

    assert found.st_size == 1 << 20
    assert found.st_blocks * 512 >= 1 << 20
    assert sorted(path.name for path in tmp_path.iterdir()) == ["newest.pt"]


def test_a_file_whose_name_cannot_be_synced_is_said_to_be_new(
    tmp_path: Path, like: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "average.pt"
    path.write_bytes(b"before")

    def fail(directory: Path) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(directory))

    monkeypatch.setattr(publish, "sync_directory", fail)

    def commit() -> None:
        with Publication(path, 5, like.stat()) as publication:
            publication.targets[0].write(b"after", 0)
            commit_together([publication])

    with pytest.raises(OutputError, match="is new, but may be the previous file again"):
        commit()

    assert path.read_bytes() == b"after"
    sweep(tmp_path)
    assert debris(tmp_path) == []
