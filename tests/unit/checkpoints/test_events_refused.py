"""What becomes of a directory of which the kernel tells nothing, or not all: it is polled."""

import errno
import logging
import os
from pathlib import Path

import pytest
from heard import named, num_watches
from inotify_simple import INotify

from tracksided.checkpoints.events import DirectoryEvents, Kernel


class FullKernel:
    """A kernel that has no more of something."""

    def __init__(self, number: int, *, allowed: int = 0) -> None:
        self.inotify: Kernel = INotify(nonblocking=True)
        self.number = number
        self.allowed = allowed
        self.fileno = self.inotify.fileno
        self.rm_watch = self.inotify.rm_watch
        self.close = self.inotify.close

    def add_watch(self, path: Path, mask: int) -> int:
        if not self.allowed:
            raise OSError(self.number, os.strerror(self.number))
        self.allowed -= 1
        return self.inotify.add_watch(path, mask)


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "fs.inotify.max_user_watches"),
        (errno.EACCES, "inotify answers: Permission denied"),
    ],
)
def test_without_watches_it_is_polled_and_said_once_until_there_are_some(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, number: int, words: str
) -> None:
    caplog.set_level(logging.INFO)
    kernel = FullKernel(number)
    events = DirectoryEvents(lambda: kernel)

    for _ in range(5):
        assert not events.follow(tmp_path)
        assert events.read() is None
        assert words in (events.problem_of(tmp_path) or "")

    assert caplog.text.count(words) == 1
    kernel.allowed = 10
    assert events.follow(tmp_path)
    assert events.problem_of(tmp_path) is None
    (tmp_path / "a.pt").touch()
    assert named(events.read())[-1] == "a.pt"
    events.close()


def test_a_directory_that_may_not_be_looked_into_is_no_trouble_for_the_others(
    tmp_path: Path,
) -> None:
    for name in ("checkpoint-1", "lost+found"):
        (tmp_path / name).mkdir()

    class Kernel(FullKernel):
        def add_watch(self, path: Path, mask: int) -> int:
            self.allowed = 0 if path.name == "lost+found" else 1
            return super().add_watch(path, mask)

    events = DirectoryEvents(lambda: Kernel(errno.EACCES))

    assert events.follow(tmp_path)
    assert events.problem_of(tmp_path) is None
    assert num_watches(events) == 2
    (tmp_path / "checkpoint-1" / "model.safetensors").touch()
    assert named(events.read())[-1] == "checkpoint-1/model.safetensors"
    events.close()


def test_where_only_the_directories_inside_have_no_watch_the_rest_is_heard(tmp_path: Path) -> None:
    (tmp_path / "checkpoint-1").mkdir()
    kernel = FullKernel(errno.ENOSPC, allowed=1)
    events = DirectoryEvents(lambda: kernel)

    assert events.follow(tmp_path)
    (tmp_path / "a.pt").touch()

    assert "max_user_watches" in (events.problem_of(tmp_path) or "")
    assert named(events.read())[-1] == "a.pt"
    kernel.allowed = 10
    assert not events.follow(tmp_path)  # nothing was missed of the directory itself
    assert events.problem_of(tmp_path) is None
    events.close()


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.EMFILE, "fs.inotify.max_user_instances"),
        (errno.ENOSYS, "inotify answers: Function not implemented"),
    ],
)
def test_a_system_without_inotify_is_polled(
    tmp_path: Path, number: int, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    def refuse() -> Kernel:
        raise OSError(number, os.strerror(number))

    events = DirectoryEvents(refuse)

    for _ in range(3):
        assert not events.follow(tmp_path)

    assert events.descriptors == ()
    assert events.read() is None
    assert caplog.text.count(words) == 1
    events.unfollow(tmp_path)
    events.close()
