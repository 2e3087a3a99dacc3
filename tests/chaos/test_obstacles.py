"""What stands in the way of the daemon does so whatever else goes on meanwhile."""

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from threading import Event, Thread

import pytest
from chaos_obstacles import read_only

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root"),
]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system that somebody writes to all the time, as far as that is possible."""
    place = tmp_path / "disk"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "disk", place], check=True)
    is_over, complaints = Event(), []

    def write() -> None:
        while not is_over.is_set():
            try:
                with (place / "file").open("wb", buffering=0) as file:
                    file.write(b"word")
            except OSError as error:
                complaints.append(error.errno)

    writers = [Thread(target=write) for _ in range(2)]
    for writer in writers:
        writer.start()
    yield place
    is_over.set()
    for writer in writers:
        writer.join()
    subprocess.run(["umount", place], check=True)
    assert set(complaints) == {errno.EROFS}


def test_a_file_system_that_is_written_to_becomes_read_only_and_is_writable_again(
    disk: Path,
) -> None:
    for _ in range(10):
        with read_only(disk, 0.0), pytest.raises(OSError, match="Read-only file system"):
            (disk / "another").touch()

        (disk / "another").touch()
    assert [path.name for path in disk.parent.iterdir()] == ["disk"]
