"""What the kernel tells of real directories."""

import errno
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from heard import named, num_watches

from tracksided.checkpoints import events as events_module
from tracksided.checkpoints.events import MAX_WITHIN, DirectoryEvents, Notice
from tracksided.checkpoints.settling import Happening


@pytest.fixture
def events() -> Iterator[DirectoryEvents]:
    made = DirectoryEvents()
    yield made
    made.close()


def test_a_file_is_open_until_it_is_closed(tmp_path: Path, events: DirectoryEvents) -> None:
    assert events.follow(tmp_path)
    assert events.read() is None

    with (tmp_path / "a.pt").open("wb") as file:
        file.write(b"half")
        file.flush()
        while_open = named(events.read())
    when_closed = named(events.read())

    assert while_open == ["a.pt+"]
    assert when_closed == ["a.pt"]


def test_a_file_that_takes_its_name_is_complete(tmp_path: Path, events: DirectoryEvents) -> None:
    (tmp_path / "tmp").write_bytes(b"1")
    (tmp_path / "b.pt").write_bytes(b"2")
    events.follow(tmp_path)

    (tmp_path / "tmp").rename(tmp_path / "a.pt")
    (tmp_path / "last.pt").hardlink_to(tmp_path / "a.pt")
    (tmp_path / "best.pt").symlink_to("a.pt")

    assert named(events.read()) == ["a.pt", "last.pt", "best.pt"]


def test_neither_reads_nor_other_names_nor_own_outputs_are_heard(
    tmp_path: Path, events: DirectoryEvents
) -> None:
    (tmp_path / "a.pt").write_bytes(b"1")
    (tmp_path / "checkpoint-1").mkdir()
    (tmp_path / "checkpoint-1" / "model.safetensors").write_bytes(b"1")
    events.follow(tmp_path)

    (tmp_path / "a.pt").read_bytes()
    (tmp_path / "checkpoint-1" / "model.safetensors").read_bytes()
    (tmp_path / "a.pt").chmod(0o600)
    for name in ("averaged_model.pt", "averaged_model.json", "x.log", ".a.pt.0a.trackside-tmp"):
        (tmp_path / name).write_bytes(b"1")
    (tmp_path / "checkpoint-1" / "events.out.tfevents.1").write_bytes(b"1")
    (tmp_path / ".averaged.0123456789ab.trackside-tmp").mkdir()
    (tmp_path / ".averaged.0123456789ab.trackside-tmp").rename(tmp_path / "averaged")
    (tmp_path / "averaged" / "model.safetensors").write_bytes(b"1")

    assert events.read() == ()


def test_directories_are_followed_as_they_come_and_under_the_name_they_take(
    tmp_path: Path, events: DirectoryEvents
) -> None:
    events.follow(tmp_path)
    (tmp_path / "tmp-checkpoint-1").mkdir()
    assert named(events.read()) == ["tmp-checkpoint-1"]
    (tmp_path / "tmp-checkpoint-1" / "model.safetensors").write_bytes(b"1")
    assert named(events.read()) == [
        "tmp-checkpoint-1/model.safetensors+",
        "tmp-checkpoint-1/model.safetensors",
    ]

    (tmp_path / "tmp-checkpoint-1").rename(tmp_path / "checkpoint-1")
    assert named(events.read()) == ["checkpoint-1"]
    (tmp_path / "checkpoint-1" / "trainer_state.json").write_bytes(b"{}")

    assert named(events.read())[-1] == "checkpoint-1/trainer_state.json"
    assert num_watches(events) == 2


def test_a_directory_that_is_removed_and_made_anew_is_found_by_the_next_call(
    tmp_path: Path, events: DirectoryEvents, caplog: pytest.LogCaptureFixture
) -> None:
    directory = tmp_path / "later"
    for _ in range(3):
        for _ in range(3):
            assert not events.follow(directory)
            assert events.problem_of(directory) is None
        directory.mkdir()
        (directory / "checkpoint-1").mkdir()
        assert events.follow(directory)
        assert not events.follow(directory)
        assert events.problem_of(directory) is None
        events.read()
        (directory / "a.pt").touch()
        assert named(events.read())[-1] == "a.pt"
        shutil.rmtree(directory)
        assert events.read() == ()

    assert num_watches(events) == 0
    assert caplog.text == ""


def test_a_directory_that_cannot_be_opened_is_said_once(
    tmp_path: Path, events: DirectoryEvents, caplog: pytest.LogCaptureFixture
) -> None:
    link = tmp_path / "link"
    link.symlink_to("link")

    for _ in range(3):
        assert not events.follow(link)

    reason = f"it cannot be opened: {os.strerror(errno.ELOOP)}"
    assert events.problem_of(link) == reason
    assert caplog.text.count(reason) == 1


def test_directories_inside_that_are_made_anew_are_heard_and_left_with_the_rest(
    tmp_path: Path, events: DirectoryEvents
) -> None:
    directory, moved, removed = tmp_path / "out", tmp_path / "out" / "last", tmp_path / "out" / "x"
    moved.mkdir(parents=True)
    removed.mkdir()
    events.follow(directory)
    still_open = os.open(removed, os.O_RDONLY)
    removed.rmdir()
    removed.mkdir()
    moved.rename(tmp_path / "backup")
    moved.mkdir()
    assert set(named(events.read())) == {"last", "x"}

    os.close(still_open)
    (tmp_path / "backup").rmdir()
    assert events.read() == ()

    (moved / "model.safetensors").touch()
    (removed / "model.safetensors").touch()
    assert set(named(events.read())) >= {"last/model.safetensors", "x/model.safetensors"}
    assert num_watches(events) == 3

    events.unfollow(directory)

    assert num_watches(events) == 0
    shutil.rmtree(directory)
    assert named(events.read()) == []


def test_a_link_that_leads_elsewhere_and_a_directory_moved_away_are_noticed(
    tmp_path: Path, events: DirectoryEvents
) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    link = tmp_path / "link"
    link.symlink_to("one")
    events.follow(link)
    (tmp_path / "one" / "a.pt").touch()
    assert named(events.read())[-1] == "a.pt"

    link.unlink()
    link.symlink_to("two")
    assert events.follow(link)
    events.read()
    (tmp_path / "one" / "b.pt").touch()
    assert named(events.read()) == []
    (tmp_path / "two").rename(tmp_path / "away")
    (tmp_path / "two").mkdir()
    assert events.follow(link)
    (tmp_path / "two" / "c.pt").touch()

    assert named(events.read())[-1] == "c.pt"
    assert num_watches(events) == 1


def test_one_directory_under_two_names_is_heard_under_both(
    tmp_path: Path, events: DirectoryEvents
) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    (tmp_path / "link").symlink_to("inside")
    for path in (tmp_path, inside, tmp_path / "link"):
        events.follow(path)

    (inside / "model.safetensors").touch()
    heard = {(notice.directory, notice.name) for notice in events.read() or ()}

    assert {path for path, _ in heard} == {tmp_path, inside, tmp_path / "link"}
    events.unfollow(tmp_path / "link")
    events.unfollow(tmp_path)
    (inside / "b.pt").touch()
    assert {notice.directory for notice in events.read() or ()} == {inside}


def test_watches_are_bounded_and_the_newest_directories_have_them(
    tmp_path: Path, events: DirectoryEvents, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in range(MAX_WITHIN + 10):
        (tmp_path / f"checkpoint-{step}").mkdir()
        os.utime(tmp_path / f"checkpoint-{step}", (step, step))
    events.follow(tmp_path)
    assert num_watches(events) == MAX_WITHIN + 1

    for step in range(100, 110):
        (tmp_path / f"checkpoint-{step}").mkdir()
        events.read()
    (tmp_path / "checkpoint-109" / "model.safetensors").touch()
    (tmp_path / "checkpoint-0" / "model.safetensors").touch()

    assert set(named(events.read())) == {
        "checkpoint-109/model.safetensors+",
        "checkpoint-109/model.safetensors",
    }
    assert num_watches(events) == MAX_WITHIN + 1
    monkeypatch.setattr(events_module, "MAX_WATCHES", MAX_WITHIN + 1)
    other = tmp_path / "checkpoint-0" / "other"
    other.mkdir()
    assert not events.follow(other)
    assert "directories are listened to already" in (events.problem_of(other) or "")


def test_more_events_than_are_read_at_once_are_one_look(
    tmp_path: Path,
    events: DirectoryEvents,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(events_module, "_BUFFER_BYTES", 512)
    directories = tmp_path / "one", tmp_path / "two"
    for directory in directories:
        directory.mkdir()
        events.follow(directory)
    for round_ in range(2):
        for number in range(10):
            (directories[0] / f"{round_}_{number}.log").touch()
        (directories[0] / f"checkpoint-{round_}").mkdir()

        assert events.read() == tuple(Notice(path, "", Happening.MISSED) for path in directories)
        assert events.read() in {None, ()}

        # The directory that came in the flood is found.
        assert all(events.follow(path) for path in directories)
        events.read()
        (directories[0] / f"checkpoint-{round_}" / "model.safetensors").touch()
        assert named(events.read())[-1] == f"checkpoint-{round_}/model.safetensors"
    assert caplog.text.count("than can be followed") == 1


def test_what_comes_while_events_are_read_is_heard_by_the_next_call(
    tmp_path: Path, events: DirectoryEvents, monkeypatch: pytest.MonkeyPatch
) -> None:
    events.follow(tmp_path)
    really_read = os.read

    def read_while_somebody_writes(descriptor: int, size: int) -> bytes:
        received = really_read(descriptor, size)
        (tmp_path / "a.pt").touch()
        return received

    (tmp_path / "x.log").touch()
    with monkeypatch.context() as patch:
        patch.setattr(os, "read", read_while_somebody_writes)
        assert events.read() == ()

    assert named(events.read()) == ["a.pt+", "a.pt"]


def test_what_takes_its_name_is_told_from_what_is_closed(
    tmp_path: Path, events: DirectoryEvents
) -> None:
    events.follow(tmp_path)

    with (tmp_path / "tmp").open("wb"):  # as safetensors does
        (tmp_path / "tmp").rename(tmp_path / "a.safetensors")

    heard = [(notice.name, notice.happening) for notice in events.read() or ()]
    assert heard == [
        ("a.safetensors", Happening.APPEARED),
        ("a.safetensors", Happening.CLOSED),
    ]
