"""Whatever goes wrong, a directory output is there whole, old or new."""

import errno
import json
import os
import stat
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from debris import debris

from tracksided.checkpoints import publish_directory
from tracksided.checkpoints.formats.base import OutputFile
from tracksided.checkpoints.naming import (
    ASIDE_SUFFIX,
    DIRECTORY_PROVENANCE,
    aside_name,
    name_before_aside,
    temporary_name,
)
from tracksided.checkpoints.provenance import KIND
from tracksided.checkpoints.publish import Publication
from tracksided.checkpoints.publish_directory import DirectoryPublication
from tracksided.checkpoints.sweeping import sweep
from tracksided.errors import OutputError


def publish(path: Path, content: bytes, before_commit: Callable[[], None] = lambda: None) -> None:
    file = OutputFile("weights", len(content), path.parent.stat())
    description = json.dumps({"kind": KIND, "files": ["weights"]}).encode()
    with DirectoryPublication(path, (file,), path.parent.stat()) as publication:
        publication.targets[0].write(content, 0)
        publication.add(replace(file, name=DIRECTORY_PROVENANCE, nbytes=len(description))).write(
            description, 0
        )
        before_commit()
        publication.commit()


@pytest.fixture
def no_exchange(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that cannot exchange two names."""
    monkeypatch.setattr(publish_directory, "exchange", lambda *_: False)


def test_a_directory_appears_whole_and_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "averaged"

    publish(path, b"old", lambda: path_is_missing(path))
    old = path.stat().st_ino
    publish(path, b"new", lambda: path_holds(path, b"old"))

    assert (path / "weights").read_bytes() == b"new"
    assert path.stat().st_ino != old
    assert debris(tmp_path) == []


def path_is_missing(path: Path) -> None:
    assert not path.exists()


def path_holds(path: Path, content: bytes) -> None:
    assert (path / "weights").read_bytes() == content


@pytest.mark.usefixtures("no_exchange")
def test_without_exchange_the_old_directory_steps_aside(tmp_path: Path) -> None:
    path = tmp_path / "averaged"
    publish(path, b"old")

    publish(path, b"new")

    assert (path / "weights").read_bytes() == b"new"
    assert debris(tmp_path) == []


@pytest.mark.usefixtures("no_exchange")
def test_an_old_directory_that_stepped_aside_in_vain_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "averaged"
    publish(path, b"old")
    rename, failed = Path.rename, [0]

    def fail_once(self: Path, target: Path) -> Path:
        if target == path and not failed[0]:
            failed[0] += 1
            raise OSError(5, os.strerror(5))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail_once)
    with pytest.raises(OutputError, match="previous average stays"):
        publish(path, b"new")

    assert (path / "weights").read_bytes() == b"old"
    assert debris(tmp_path) == []


def test_a_failure_before_the_commit_leaves_the_old_directory(tmp_path: Path) -> None:
    path = tmp_path / "averaged"
    publish(path, b"old")

    def fail() -> None:
        raise OSError(28, os.strerror(28))

    with pytest.raises(OutputError, match="No space left"):
        publish(path, b"new", fail)

    assert (path / "weights").read_bytes() == b"old"
    assert debris(tmp_path) == []


def test_sweep_removes_abandoned_directories_and_no_others(tmp_path: Path) -> None:
    abandoned = tmp_path / ".averaged.0123456789ab.trackside-tmp"
    abandoned.mkdir()
    (abandoned / "weights").write_bytes(b"half")

    def check() -> None:
        assert sweep(tmp_path) == 1
        assert not abandoned.exists()

    publish(tmp_path / "averaged", b"new", check)

    assert (tmp_path / "averaged" / "weights").read_bytes() == b"new"


def test_sweep_gives_a_directory_that_stepped_aside_its_name_back(tmp_path: Path) -> None:
    aside = tmp_path / aside_name("averaged")
    aside.mkdir()
    (aside / "weights").write_bytes(b"the only one")

    assert sweep(tmp_path) == 0

    assert (tmp_path / "averaged" / "weights").read_bytes() == b"the only one"
    second = tmp_path / aside_name("averaged")
    second.mkdir()
    assert sweep(tmp_path) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["averaged"]


def test_sweep_of_one_output_leaves_the_others(tmp_path: Path) -> None:
    others = [tmp_path / temporary_name("averaged"), tmp_path / aside_name("averaged")]
    for directory in (*others, tmp_path / temporary_name("spool")):
        directory.mkdir()

    assert sweep(tmp_path, "spool") == 1

    assert sorted(tmp_path.iterdir()) == sorted(others)


def test_sweep_leaves_foreign_names_alone(tmp_path: Path) -> None:
    foreign = (
        "...x.trackside-old",
        "...0123456789ab.trackside-old",
        "....0123456789ab.trackside-old",
        ".mine.trackside-tmp",
        ".a-file.0123456789ab.trackside-old",
    )
    for name in foreign:
        (tmp_path / name).touch()

    assert sweep(tmp_path) == 0

    assert {path.name for path in tmp_path.iterdir()} == set(foreign)


def test_sweep_of_what_is_no_directory_removes_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    assert sweep(tmp_path / "file") == 0
    assert sweep(tmp_path / "nowhere") == 0


@pytest.mark.parametrize(
    "name",
    [
        "averaged",
        ".x.trackside-tmp",
        ASIDE_SUFFIX,
        "." + ASIDE_SUFFIX,
        "...0123456789ab.trackside-old",
        "....0123456789ab.trackside-old",
        ".averaged.0123456789AB.trackside-old",
    ],
)
def test_other_names_did_not_step_aside(name: str) -> None:
    assert name_before_aside(name) is None


def test_a_reader_always_finds_a_whole_directory(tmp_path: Path) -> None:
    path = tmp_path / "averaged"
    publish(path, b"0" * 100)
    seen: list[bytes] = []
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            seen.append((path / "weights").read_bytes())

    with ThreadPoolExecutor(1) as pool:
        reader = pool.submit(read)
        for number in range(1, 20):
            publish(path, str(number % 10).encode() * 100)
        stop.set()
        reader.result()

    assert {len(content) for content in seen} == {100}
    assert all(len(set(content)) == 1 for content in seen)


def test_a_signal_while_space_is_allocated_leaves_no_debris(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def end(*_: object) -> None:
        raise SystemExit(143)

    monkeypatch.setattr(os, "posix_fallocate", end)

    with pytest.raises(SystemExit):
        publish(tmp_path / "averaged", b"new")
    with pytest.raises(SystemExit):
        Publication(tmp_path / "averaged_model.pt", 10, tmp_path.stat())

    assert list(tmp_path.iterdir()) == []


def test_a_directory_keeps_the_setgid_bit_and_files_do_not(tmp_path: Path) -> None:
    source = tmp_path / "checkpoint-1"
    source.mkdir()
    source.chmod(0o2770)
    model = source / "model"
    model.touch()
    model.chmod(0o6640)

    with DirectoryPublication(
        tmp_path / "averaged", (OutputFile("model", 0, model.stat()),), source.stat()
    ) as publication:
        publication.commit()

    assert stat.S_IMODE((tmp_path / "averaged").stat().st_mode) == 0o2770
    assert stat.S_IMODE((tmp_path / "averaged" / "model").stat().st_mode) == 0o640


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a directory to another group")
def test_the_setgid_bit_is_not_taken_for_another_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "checkpoint-1"
    source.mkdir()
    os.chown(source, -1, os.getgid() + 1)
    source.chmod(0o2770)
    monkeypatch.setattr(os, "fchown", refuse)

    with DirectoryPublication(tmp_path / "averaged", (), source.stat()) as publication:
        publication.commit()

    assert stat.S_IMODE((tmp_path / "averaged").stat().st_mode) == 0o770


def refuse(*_: object) -> None:
    raise PermissionError


def test_a_read_only_mode_is_taken_when_everything_is_written(tmp_path: Path) -> None:
    like = tmp_path / "like"
    like.write_bytes(b"")
    like.chmod(0o440)
    file = OutputFile("model", 3, like.stat())

    with DirectoryPublication(tmp_path / "averaged", (file,), tmp_path.stat()) as publication:
        meanwhile = publication.paths[0].stat().st_mode & 0o777
        publication.commit()

    assert meanwhile == 0o640
    assert (tmp_path / "averaged" / "model").stat().st_mode & 0o777 == 0o440


def test_a_directory_whose_name_cannot_be_synced_is_said_to_be_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "averaged"
    publish(path, b"before")

    def fail(directory: Path) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(directory))

    monkeypatch.setattr(publish_directory, "sync_directory", fail)

    with pytest.raises(OutputError) as caught:
        publish(path, b"after")

    assert (path / "weights").read_bytes() == b"after"
    assert "is new, but may be the previous average again after a power cut" in str(caught.value)
    assert "stays" not in str(caught.value)
    sweep(tmp_path)
    assert debris(tmp_path) == []
    assert (path / "weights").read_bytes() == b"after"
