"""Averagings in one directory take turns where names are given and taken."""

import fcntl
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tracksided.checkpoints.directory_lock import locked
from tracksided.checkpoints.formats.base import OutputFile
from tracksided.checkpoints.naming import name_to_be
from tracksided.checkpoints.publish import Publication, commit_together
from tracksided.checkpoints.publish_directory import DirectoryPublication
from tracksided.checkpoints.sweeping import sweep


def publish_file(path: Path) -> None:
    with Publication(path, 1, path.parent.stat()) as publication:
        publication.targets[0].write(b"x", 0)
        commit_together((publication,))


def publish_directory(path: Path) -> None:
    file = OutputFile("weights", 1, path.parent.stat())
    with DirectoryPublication(path, (file,), path.parent.stat()) as publication:
        publication.targets[0].write(b"x", 0)
        publication.commit()


@pytest.mark.parametrize("publish", [publish_file, publish_directory])
def test_what_was_just_created_is_not_swept_before_it_is_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, publish: Callable[[Path], None]
) -> None:
    really_flock = fcntl.flock
    swept: list[int] = []

    def flock(descriptor: int, operation: int) -> None:
        is_new = any(name_to_be(name) for name in os.listdir(tmp_path))  # noqa: PTH208 - names
        if is_new and not swept:
            swept.append(0)
            swept[0] = sweep(tmp_path)
        really_flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", flock)

    publish(tmp_path / "averaged")

    assert swept == [0]
    assert [path.name for path in tmp_path.iterdir()] == ["averaged"]


@pytest.mark.parametrize("publish", [publish_file, publish_directory])
def test_names_are_taken_under_the_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, publish: Callable[[Path], None]
) -> None:
    held: list[bool] = []
    for method in ("rename", "replace"):
        really = getattr(Path, method)

        def rename(self: Path, target: Path, really: Callable[..., Path] = really) -> Path:
            with locked(tmp_path, waits=False) as is_free:
                held.append(not is_free)
            return really(self, target)

        monkeypatch.setattr(Path, method, rename)

    publish(tmp_path / "averaged")

    assert held == [True]


def test_nothing_is_swept_while_another_process_holds_the_lock_and_a_kill_frees_it(
    tmp_path: Path,
) -> None:
    (tmp_path / ".a.pt.0123456789ab.trackside-tmp").touch()
    holder = (
        "import fcntl, os, sys, time\n"
        "fcntl.flock(os.open(sys.argv[1], os.O_RDONLY), fcntl.LOCK_EX)\n"
        "print('held', flush=True)\n"
        "time.sleep(600)\n"
    )
    command = [sys.executable, "-S", "-c", holder, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        while_held = sweep(tmp_path)
        process.kill()

    assert (while_held, sweep(tmp_path)) == (0, 1)
