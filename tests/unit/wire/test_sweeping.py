"""Sweeping up after killed creations, and the lock that keeps living ones from it."""

import errno
import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from alive_elsewhere import is_alive_for_others

from trackside.wire import segment
from trackside.wire.records import RecordKind
from trackside.wire.ring import RingWriter
from trackside.wire.segment import AliveLock, scan

MakeWriter = Callable[..., RingWriter]


def test_sweep_removes_what_a_killed_creation_left(shm_dir: Path) -> None:
    dead = [shm_dir / "run.r0.1.a.alive", shm_dir / "run.r0.1.a.ring.tmp"]
    for path in dead:
        path.touch()

    removed = segment.sweep(shm_dir)

    assert sorted(removed) == dead
    assert not any(shm_dir.iterdir())


def test_sweep_leaves_a_creation_that_is_under_way(shm_dir: Path) -> None:
    alive, unfinished = shm_dir / "run.r0.1.a.alive", shm_dir / "run.r0.1.a.ring.tmp"
    ready_read, ready_write = os.pipe()
    end_read, end_write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(end_write)
        descriptor = os.open(alive, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.lockf(descriptor, fcntl.LOCK_EX)
        unfinished.touch()
        os.write(ready_write, b"x")
        os.read(end_read, 1)
        os._exit(0)
    os.read(ready_read, 1)

    removed = segment.sweep(shm_dir)

    os.close(end_write)
    os.waitpid(child, 0)
    for descriptor in (ready_read, ready_write, end_read):
        os.close(descriptor)
    assert removed == ()
    assert unfinished.exists()
    assert len(segment.sweep(shm_dir)) == 2


def test_sweep_leaves_a_creation_of_its_own_process(shm_dir: Path) -> None:
    """To open and close the lock's file would drop the lock."""
    ring = shm_dir / "run.r0.1.a.ring"
    lock = AliveLock.acquire(ring)

    assert segment.sweep(shm_dir) == ()

    assert is_alive_for_others(ring)
    lock.release(unlink=True)


def test_sweep_holds_the_lock_while_it_removes(
    shm_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a writer could lock the file between the look and the removal, and be without one."""
    ring = shm_dir / "run.r0.1.a.ring"
    ring.with_suffix(".alive").touch()
    unlink = Path.unlink
    held: list[bool] = []

    def look_then_unlink(path: Path, *, missing_ok: bool = False) -> None:
        held.append(is_alive_for_others(ring))
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", look_then_unlink)

    segment.sweep(shm_dir)

    assert held == [True]


@pytest.mark.parametrize("race", ["swept", "swept and made anew", "held by the sweeper"])
def test_a_lock_that_a_sweeper_takes_away_is_made_anew(
    shm_dir: Path, monkeypatch: pytest.MonkeyPatch, race: str
) -> None:
    ring = shm_dir / "run.r0.1.a.ring"
    alive = ring.with_suffix(".alive")
    lockf = fcntl.lockf
    races = [race]

    def lose_the_first_race(descriptor: int, operation: int) -> None:
        if races and races.pop() == "held by the sweeper":
            alive.unlink()
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        lockf(descriptor, operation)
        if race != "held by the sweeper" and not made:
            alive.rename(shm_dir / "swept")
            made.append(alive)
            if race == "swept and made anew":
                alive.touch(0o600)

    made: list[Path] = []
    monkeypatch.setattr(fcntl, "lockf", lose_the_first_race)

    lock = AliveLock.acquire(ring)

    monkeypatch.undo()
    assert is_alive_for_others(ring)
    lock.release(unlink=True)
    assert not alive.exists()
    assert not is_alive_for_others(ring)


def test_a_lock_that_is_always_taken_away_is_given_up(
    shm_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ring = shm_dir / "run.r0.1.a.ring"
    lockf = fcntl.lockf

    def lose(descriptor: int, operation: int) -> None:
        lockf(descriptor, operation)
        ring.with_suffix(".alive").unlink()

    monkeypatch.setattr(fcntl, "lockf", lose)
    before = set(Path("/proc/self/fd").iterdir())

    with pytest.raises(OSError, match="taken away again and again"):
        AliveLock.acquire(ring)

    assert set(Path("/proc/self/fd").iterdir()) == before


def test_the_lock_of_a_segment_is_taken_once(shm_dir: Path) -> None:
    ring = shm_dir / "run.r0.1.a.ring"
    lock = AliveLock.acquire(ring)

    with pytest.raises(FileExistsError):
        AliveLock.acquire(ring)

    assert is_alive_for_others(ring)
    lock.release(unlink=True)


def test_sweep_leaves_finished_segments_of_dead_writers(make_writer: MakeWriter) -> None:
    writer = make_writer()
    writer.publish(RecordKind.STEP, 1, b"")
    writer.close()

    assert segment.sweep(writer.path.parent) == ()
    assert scan(writer.path.parent) == (writer.path,)
