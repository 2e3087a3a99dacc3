"""Threads of an averaging: no signal comes between their start and their end."""

import os
import signal
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from tracksided.checkpoints.crew import crew
from tracksided.checkpoints.ending import signals_as_exits, signals_held

DEADLINE_S = 60.0
HEAD_START_S = 0.05  # for a main thread that does not wait: then it is the first


class Course:
    """What ended first: the crew, or a thread of it that was signalled right before."""

    def __init__(self) -> None:
        self.ended: list[str] = []
        self._is_left = threading.Event()

    def end_us_and_go_on(self) -> None:
        """Ask for the end, from a thread; `leave` would cut the time short that it goes on."""
        os.kill(os.getpid(), signal.SIGTERM)
        self._is_left.wait(HEAD_START_S)
        self.ended.append("thread")

    def leave(self) -> None:
        self.ended.append("crew")
        self._is_left.set()


def test_a_signal_while_a_thread_starts_waits_until_all_have_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    course = Course()
    bootstrap = threading.Thread._bootstrap  # type: ignore[attr-defined]  # what it does first

    def late(thread: threading.Thread) -> None:
        course.end_us_and_go_on()
        bootstrap(thread)

    monkeypatch.setattr(threading.Thread, "_bootstrap", late)

    with signals_as_exits(signal.SIGTERM), pytest.raises(SystemExit), crew(1, "late"):
        pass
    course.leave()

    assert course.ended == ["thread", "crew"]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("late")]


def test_a_signal_while_threads_are_joined_waits_until_all_have_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    course, is_joining = Course(), threading.Event()
    shutdown = ThreadPoolExecutor.shutdown

    def noted(pool: ThreadPoolExecutor, **options: Any) -> None:
        is_joining.set()
        shutdown(pool, **options)

    monkeypatch.setattr(ThreadPoolExecutor, "shutdown", noted)

    def work(has_begun: threading.Event) -> None:
        has_begun.set()
        is_joining.wait(DEADLINE_S)
        course.end_us_and_go_on()

    def fail_while_one_works() -> None:
        with crew(1, "busy") as pool:
            has_begun = threading.Event()
            pool.submit(work, has_begun)
            has_begun.wait(DEADLINE_S)
            raise ValueError

    with signals_as_exits(signal.SIGTERM), pytest.raises(SystemExit):
        fail_while_one_works()
    course.leave()

    assert course.ended == ["thread", "crew"]


def test_work_that_has_not_begun_is_dropped_when_the_block_fails() -> None:
    done: list[str] = []
    futures: list[Future[None]] = []

    def first(has_begun: threading.Event) -> None:
        has_begun.set()
        deadline = time.monotonic() + DEADLINE_S
        while not futures[0].cancelled():
            assert time.monotonic() < deadline
        done.append("first")

    def fail_while_one_waits() -> None:
        with crew(1, "busy") as pool:
            has_begun = threading.Event()
            pool.submit(first, has_begun)
            futures.append(pool.submit(done.append, "second"))
            has_begun.wait(DEADLINE_S)
            raise ValueError

    with pytest.raises(ValueError, match=r"^$"):
        fail_while_one_waits()

    assert done == ["first"]


def test_a_thread_that_cannot_start_leaves_none_of_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    start, started = threading.Thread.start, []

    def one_at_most(thread: threading.Thread) -> None:
        if started:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", one_at_most)

    with pytest.raises(RuntimeError, match="start new thread"), crew(2, "many"):
        pass

    assert not started[0].is_alive()


def test_a_signal_that_another_thread_is_given_waits_too() -> None:
    """What the system does with one that the main thread blocks, where a library has threads."""
    came: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: came.append(number))
    try:
        with crew(1, "other") as pool:
            other = pool.submit(threading.get_ident).result()
            with signals_held():
                signal.pthread_kill(other, signal.SIGTERM)
                pool.submit(time.monotonic).result()
                within = list(came)
            after = list(came)
        handler = signal.getsignal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)

    assert within == []
    assert after == [signal.SIGTERM]
    assert getattr(handler, "__name__", "") == "<lambda>"


def test_signals_that_are_ignored_stay_so() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with crew(1, "nohup"):
            os.kill(os.getpid(), signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
