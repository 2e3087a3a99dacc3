"""What a service manager is told."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tracksided.lifecycle import ServiceNotifier

WATCHED = {"WATCHDOG_USEC": "30000000"}


@pytest.fixture
def manager(shm_dir: Path) -> Iterator[socket.socket]:
    kind = socket.SOCK_DGRAM | socket.SOCK_NONBLOCK
    path = shm_dir / "notify"  # short enough for a socket
    with socket.socket(socket.AF_UNIX, kind) as manager:
        manager.bind(str(path))
        yield manager
    path.unlink()


def said(manager: socket.socket) -> list[bytes]:
    messages: list[bytes] = []
    try:
        while True:
            messages.append(manager.recv(4096))
    except BlockingIOError:
        return messages


def test_assignments_are_one_message(manager: socket.socket) -> None:
    notifier = ServiceNotifier({"NOTIFY_SOCKET": manager.getsockname()})

    notifier.send("READY=1", "STATUS=serving")

    assert said(manager) == [b"READY=1\nSTATUS=serving"]


@pytest.mark.parametrize(("environ", "messages"), [(WATCHED, [b"WATCHDOG=1"]), ({}, [])])
def test_a_watchdog_is_fed_where_there_is_one(
    manager: socket.socket, environ: dict[str, str], messages: list[bytes]
) -> None:
    notifier = ServiceNotifier({"NOTIFY_SOCKET": manager.getsockname(), **environ})

    notifier.feed_watchdog()

    assert said(manager) == messages


def test_a_manager_that_does_not_listen_is_not_waited_for(manager: socket.socket) -> None:
    """A socket keeps some messages (net.unix.max_dgram_qlen); whoever sends one more waits."""
    notifier = ServiceNotifier({"NOTIFY_SOCKET": manager.getsockname(), **WATCHED})

    for _ in range(10_000):
        notifier.feed_watchdog()

    heard = said(manager)
    assert 0 < len(heard) < 10_000
    notifier.feed_watchdog()
    assert said(manager) == [b"WATCHDOG=1"]


def test_a_manager_that_is_gone_is_not_told_any_more(shm_dir: Path) -> None:
    notifier = ServiceNotifier({"NOTIFY_SOCKET": str(shm_dir / "nobody")})

    notifier.send("READY=1")

    assert list(shm_dir.iterdir()) == []
