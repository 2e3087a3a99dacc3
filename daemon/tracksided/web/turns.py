"""Calls that may hang: a few at a time for each run, and each is waited for only so long.

A thread that waits for a file server cannot be ended. Without a bound for each run, the pictures
of one whose server hangs would use up the threads by which all others are read.
"""

import asyncio
from collections.abc import Callable
from typing import TypeVar
from weakref import WeakValueDictionary

AT_ONCE = 2  # calls for one run
PATIENCE_S = 10.0  # a browser has six connections for one server, and this holds one of them

_Found = TypeVar("_Found")


class Turns:
    """Runs calls in threads. Belongs to one event loop."""

    def __init__(self) -> None:
        self._of_run: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()
        """Those of runs that are being read."""

    async def take(self, run: str, call: Callable[[], _Found]) -> _Found:
        """Wait for a turn of this run and return what the call returns.

        Raises:
            TimeoutError: it takes too long. The call goes on, and keeps its turn until it ends.
        """
        turns = self._of_run.get(run)
        if turns is None:
            turns = self._of_run[run] = asyncio.Semaphore(AT_ONCE)

        def give_back(done: asyncio.Future[_Found]) -> None:
            turns.release()
            if not done.cancelled():
                done.exception()  # nobody may be left to be told of it

        async with asyncio.timeout(PATIENCE_S):
            await turns.acquire()
            calling = asyncio.ensure_future(asyncio.to_thread(call))
            calling.add_done_callback(give_back)
            return await asyncio.shield(calling)
