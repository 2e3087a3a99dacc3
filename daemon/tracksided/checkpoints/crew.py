"""Threads that have begun before they are given work, and have ended before anything goes on."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from tracksided.checkpoints.ending import signals_held


@contextmanager
def crew(num_threads: int, name: str) -> Iterator[ThreadPoolExecutor]:
    """Run threads, and join them whatever ends the block; work that has not begun is dropped then.

    No signal comes between their start and the block, nor while they are joined. Python before
    3.11.6 and 3.12.1 crashes where it ends before a thread has begun, and a start that Ctrl-C
    interrupts leaves one that nobody waits for (python/cpython#108987). One that were still at
    work would read and write files that are closed, or another under the same number.

    Args:
        num_threads: 1 or more.
        name: of the threads.

    Raises:
        RuntimeError: the system has no room for so many threads.
    """
    pool = ThreadPoolExecutor(num_threads, name)
    try:
        with signals_held():
            _start(pool, num_threads)
        yield pool
    finally:
        with signals_held():
            pool.shutdown(cancel_futures=True)


def _start(pool: ThreadPoolExecutor, num_threads: int) -> None:
    gate = threading.Event()
    try:
        for _ in range(num_threads):
            pool.submit(gate.wait)  # a new thread each: none is idle yet
    finally:
        gate.set()
