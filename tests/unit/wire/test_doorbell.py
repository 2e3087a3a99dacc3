"""Doorbells in one process; tests/integration/wire has stopped and killed daemons."""

import os
import resource
import time
from pathlib import Path

import pytest
import zmq

from trackside.errors import DoorbellUnavailable
from trackside.wire.doorbell import Doorbell, Listener

PATIENCE_S = 20.0


def test_ring_wakes_the_listener(shm_dir: Path) -> None:
    listener = Listener(shm_dir)
    doorbell = Doorbell(shm_dir)

    doorbell.ring()

    assert listener.wait(PATIENCE_S)
    doorbell.close()
    listener.close()


def test_only_the_owner_may_ring(shm_dir: Path) -> None:
    umask = os.umask(0)
    listener = Listener(shm_dir)
    os.umask(umask)

    assert (shm_dir / "daemon.sock").stat().st_mode & 0o777 == 0o600
    listener.close()


def test_many_rings_are_taken_in_at_once(shm_dir: Path) -> None:
    listener = Listener(shm_dir)
    doorbell = Doorbell(shm_dir)
    doorbell.ring()
    assert listener.wait(PATIENCE_S)

    for _ in range(1000):
        doorbell.ring()
    wakes = 0
    while listener.wait(0.2):
        wakes += 1

    assert 1 <= wakes < 1000
    doorbell.close()
    listener.close()


def test_silence_times_out(shm_dir: Path) -> None:
    listener = Listener(shm_dir)
    started = time.monotonic()

    assert not listener.wait(0.05)

    assert time.monotonic() - started >= 0.04
    listener.close()


def test_ring_that_cannot_be_sent_is_no_error(
    shm_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    doorbell = Doorbell(shm_dir)
    tried: list[int] = []

    def refuse(socket: zmq.Socket[bytes], content: bytes, flags: int) -> None:
        del socket, content
        tried.append(flags)
        raise zmq.Again

    monkeypatch.setattr(zmq.Socket, "send", refuse)

    doorbell.ring()

    assert tried == [zmq.NOBLOCK]
    doorbell.close()


def test_ring_without_a_daemon_does_nothing(shm_dir: Path) -> None:
    doorbell = Doorbell(shm_dir)

    for _ in range(100):
        doorbell.ring()

    doorbell.close()


def test_daemon_that_comes_late_hears_the_last_ring(shm_dir: Path) -> None:
    doorbell = Doorbell(shm_dir)
    doorbell.ring()

    listener = Listener(shm_dir)

    assert listener.wait(PATIENCE_S)
    doorbell.close()
    listener.close()


def test_closing_twice_and_ringing_after_is_fine(shm_dir: Path) -> None:
    doorbell = Doorbell(shm_dir)
    listener = Listener(shm_dir)

    for end in (doorbell, doorbell, listener, listener):
        end.close()
    doorbell.ring()

    assert not any(shm_dir.iterdir())


def test_new_listener_takes_over_the_path_of_a_killed_one(shm_dir: Path) -> None:
    doorbell = Doorbell(shm_dir)
    child = os.fork()
    if child == 0:
        Listener(shm_dir)
        os._exit(0)  # like kill -9: nothing is cleaned up
    os.waitpid(child, 0)
    assert (shm_dir / "daemon.sock").is_socket()

    listener = Listener(shm_dir)
    doorbell.ring()

    assert listener.wait(PATIENCE_S)
    doorbell.close()
    listener.close()


def test_forked_child_neither_rings_nor_closes(shm_dir: Path) -> None:
    listener = Listener(shm_dir)
    doorbell = Doorbell(shm_dir)
    child = os.fork()
    if child == 0:
        doorbell.ring()
        doorbell.close()
        os._exit(0)
    _, status = os.waitpid(child, 0)

    assert os.waitstatus_to_exitcode(status) == 0
    assert not listener.wait(0.1)
    doorbell.ring()
    assert listener.wait(PATIENCE_S)
    doorbell.close()
    listener.close()


def test_path_that_no_socket_can_have_is_refused_with_the_mend(tmp_path: Path) -> None:
    directory = tmp_path / ("x" * 110)

    for end in (Doorbell, Listener):
        with pytest.raises(DoorbellUnavailable, match="holds 107; set TRACKSIDE_SHM_DIR"):
            end(directory)


def test_longest_possible_path_works(shm_dir: Path) -> None:
    directory = shm_dir / ("x" * (107 - len(str(shm_dir)) - len("//daemon.sock")))
    directory.mkdir()
    assert len(str(directory / "daemon.sock")) == 107

    listener = Listener(directory)
    doorbell = Doorbell(directory)
    doorbell.ring()

    assert listener.wait(PATIENCE_S)
    doorbell.close()
    listener.close()


def test_listener_in_a_missing_directory_is_an_error(shm_dir: Path) -> None:
    with pytest.raises(DoorbellUnavailable, match=r"daemon\.sock"):
        Listener(shm_dir / "no")


def test_too_few_descriptors_are_an_error_not_an_abort(shm_dir: Path) -> None:
    child = os.fork()
    if child == 0:
        used = len(list(Path("/proc/self/fd").iterdir()))
        resource.setrlimit(resource.RLIMIT_NOFILE, (used + 3, used + 3))
        try:
            Doorbell(shm_dir)
        except DoorbellUnavailable as error:
            os._exit(0 if "ulimit -n" in str(error) else 2)
        os._exit(1)

    _, status = os.waitpid(child, 0)

    assert os.waitstatus_to_exitcode(status) == 0


def test_a_message_that_is_no_doorbell_is_not_taken_in(shm_dir: Path) -> None:
    listener = Listener(shm_dir)
    with zmq.Context() as context, context.socket(zmq.PUSH) as stranger:
        stranger.setsockopt(zmq.LINGER, 0)
        monitor = stranger.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        stranger.connect(f"ipc://{shm_dir}/daemon.sock")
        stranger.send(bytes(1 << 20))

        assert monitor.poll(int(PATIENCE_S * 1000))  # it was hung up on
        assert not listener.wait(0)
        stranger.disable_monitor()
        monitor.close()
    listener.close()
