"""Talking to a child that does not listen: whoever talks must not wait for it."""

import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tracksided.checkpoints.process import ChildProcess
from tracksided.talking import TalkingChild

pytestmark = pytest.mark.integration

PATIENCE_S = 60.0
MESSAGE = bytes(8 << 20)  # far more than a socket holds

# Listens once a file is there, as one does that imports first; then says how much it heard.
CHILD = """
import pathlib, sys, time
from multiprocessing.connection import Connection
while not pathlib.Path(sys.argv[3]).exists():
    time.sleep(0.01)
with Connection(int(sys.argv[1])) as connection:
    while True:
        try:
            connection.send(len(connection.recv()))
        except EOFError:
            break
"""


@pytest.fixture
def sign(tmp_path: Path) -> Path:
    return tmp_path / "listen"


@pytest.fixture
def child(sign: Path) -> Iterator[TalkingChild]:
    child = TalkingChild([sys.executable, "-P", "-c", CHILD], str(sign))
    yield child
    if not child.is_gone:
        child.end(gently=False)


def send(child: TalkingChild) -> threading.Thread:
    """Send in a thread of its own: one that waits for the child must not hold up the test."""
    sending = threading.Thread(target=child.send, args=(MESSAGE,), daemon=True)
    sending.start()
    return sending


def test_starting_waits_for_no_file_that_the_child_closes(
    sign: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file on a server that is stopped does not close; only posix_spawn returns before that."""
    spawn, spawned = os.posix_spawn, []

    def note(*arguments: Any, **options: Any) -> int:
        spawned.append(arguments[0])
        return spawn(*arguments, **options)

    monkeypatch.setattr(os, "posix_spawn", note)

    talking = TalkingChild([sys.executable, "-P", "-c", CHILD], str(sign))
    averaging = ChildProcess({}, [sys.executable, "-P", "-c", ""])

    assert spawned == [sys.executable, sys.executable]
    talking.end(gently=False)
    averaging.end()


def test_sending_does_not_wait_for_a_child_that_does_not_listen_yet(
    child: TalkingChild, sign: Path
) -> None:
    sending = send(child)
    sending.join(PATIENCE_S / 4)
    has_waited = sending.is_alive()
    sign.touch()

    deadline = time.monotonic() + PATIENCE_S
    while (answer := child.answer()) is None:
        assert time.monotonic() < deadline
        time.sleep(0.005)

    assert answer == len(MESSAGE)
    assert not has_waited


@pytest.mark.parametrize("gently", [True, False])
def test_a_child_that_never_listened_can_be_ended(child: TalkingChild, *, gently: bool) -> None:
    sending = send(child)

    how = child.end(gently=gently)
    sending.join(PATIENCE_S)

    assert how == "was killed by signal 9"
    assert isinstance(child.answer(), EOFError)


def test_a_child_that_is_gone_is_told_by_its_answer(child: TalkingChild, sign: Path) -> None:
    sign.touch()
    child.process.kill()
    child.process.wait(PATIENCE_S)

    for _ in range(3):
        child.send(MESSAGE)

    deadline = time.monotonic() + PATIENCE_S
    while (answer := child.answer()) is None:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    assert isinstance(answer, EOFError)
    assert child.end(gently=False) == "was killed by signal 9"
