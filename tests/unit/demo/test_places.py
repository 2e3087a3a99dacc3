from pathlib import Path

import pytest

from tracksided.demo.places import create_output, private_shared_memory
from tracksided.errors import OutputError


def test_the_default_name_is_the_next_free_one(tmp_path: Path) -> None:
    names = [create_output(None, tmp_path).name for _ in range(3)]

    assert names == ["trackside_demo", "trackside_demo-2", "trackside_demo-3"]


def test_an_explicit_directory_may_be_new_or_empty(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b"

    first = create_output(path, tmp_path)
    second = create_output(path, tmp_path)

    assert first == second == path
    assert path.is_dir()


def test_an_explicit_directory_with_content_is_refused(tmp_path: Path) -> None:
    (tmp_path / "kept.txt").write_text("mine")

    with pytest.raises(OutputError, match="is not empty; name a new or empty directory"):
        create_output(tmp_path, tmp_path)

    assert [entry.name for entry in tmp_path.iterdir()] == ["kept.txt"]


def test_a_file_as_output_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("mine")

    with pytest.raises(OutputError, match="is a file"):
        create_output(path, tmp_path)


def test_a_parent_that_is_missing_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="No such file or directory; choose a place with --out"):
        create_output(None, tmp_path / "missing")


def test_shared_memory_is_private_and_goes_with_its_content(tmp_path: Path) -> None:
    with private_shared_memory(tmp_path) as path:
        mode = path.stat().st_mode & 0o777
        (path / "left.ring").write_bytes(b"x")

    assert mode == 0o700
    assert not list(tmp_path.iterdir())


def test_shared_memory_goes_after_an_error_too(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), private_shared_memory(tmp_path):
        raise KeyboardInterrupt

    assert not list(tmp_path.iterdir())


def test_a_socket_path_in_shared_memory_stays_short_enough() -> None:
    with private_shared_memory(Path("/dev/shm")) as path:  # noqa: S108 - the real place
        assert len(str(path / "daemon.sock")) <= 107
