"""Read files in a thread; who asks waits only so long for a file system that does not answer."""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Generic, TypeVar

logger = logging.getLogger(__name__)

PATIENCE_S = 2.0  # a network file system may hang for minutes; the page goes on with what it has
HANGS_S = 10.0  # the first reading of a long run takes longer than that patience, but not so long
FRESH_S = 0.4  # many browsers look at the same files: they are read once for all

_Reading = TypeVar("_Reading")


class Patient(Generic[_Reading]):
    """One thing that is read again and again. Belongs to one event loop.

    ``read`` runs in a thread, never twice at a time; ``apply`` runs in the event loop and says
    whether there is more to read. ``clock`` gives monotonic seconds.
    """

    def __init__(
        self,
        read: Callable[[], _Reading],
        apply: Callable[[_Reading], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._read = read
        self._apply = apply
        self._clock = clock
        self._task: asyncio.Task[None] | None = None
        self._fresh_until = float("-inf")
        self._reads_since = float("-inf")
        self.problem: str | None = None
        """Why the last reading failed, or that it does not end."""

    async def refresh(self) -> None:
        """Take in what is new, or go on with what there is."""
        if self._clock() < self._fresh_until:
            return
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._follow())
        _, unfinished = await asyncio.wait((self._task,), timeout=PATIENCE_S)
        if unfinished and self._clock() - self._reads_since > HANGS_S:
            self.problem = "the file system of the run does not answer; what is shown is older"

    async def _follow(self) -> None:
        problem: str | None = None
        try:
            has_more = True
            while has_more:
                self._reads_since = self._clock()
                has_more = self._apply(await asyncio.to_thread(self._read))
        except OSError as error:
            problem = f"cannot read {error.filename or 'a file of the run'}: {error.strerror}"
            if problem != self.problem:  # a cause that stays is logged once
                logger.warning("%s", problem)
        except Exception as error:
            # The boundary of a run: what nobody foresaw costs this one, and no other.
            problem = f"{type(error).__name__}: {error}"
            if problem != self.problem:
                logger.exception("a run cannot be shown")
        self.problem = problem
        self._fresh_until = self._clock() + FRESH_S
