"""Watch directories for the daemon, and average what is newest in a child process."""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import ParamSpec

from tracksided.checkpoints.events import DirectoryEvents
from tracksided.checkpoints.outcomes import AverageEvent, event_of, outcome_of
from tracksided.checkpoints.placement import placement_for
from tracksided.checkpoints.process import COMMAND, ChildProcess
from tracksided.checkpoints.settling import Happening
from tracksided.checkpoints.sweeping import sweep
from tracksided.checkpoints.watched import Watched
from tracksided.checkpoints.watcher import Look, look
from tracksided.config import DEFAULT_LAST, DEFAULT_MINIMUM, DEFAULT_POLL_S
from tracksided.patient_thread import NEVER_ASKED

logger = logging.getLogger(__name__)

_P = ParamSpec("_P")

HEAR_EVERY_S = 0.2  # at most: of a thousand writes in a row the kernel makes few events
HANG_S = 600.0  # without a sign of life; a block takes seconds even on a starved machine
RETRY_S = 60.0  # after a crash: memory may be free again
MAX_RETRY_S = 3600.0  # of what may heal by itself; each wait is twice the one before
MAX_CRASHES = 3  # of one set of checkpoints, then it waits for another set


@dataclass(slots=True)
class _Running:
    watched: Watched
    child: ChildProcess
    started: float
    num_bytes_said: int
    last_sign: float


class CheckpointService:
    """Averages checkpoints as they appear. One thread calls it; no call waits for a child.

    Events of the file system hasten a look; what they miss is seen by the next one of the polls.
    States of a checkpoint: changed -> settled; of a directory, when one has: due -> averaging.
    """

    def __init__(
        self,
        *,
        last: int = DEFAULT_LAST,
        min_checkpoints: int = DEFAULT_MINIMUM,
        poll_seconds: float = DEFAULT_POLL_S,
        num_threads: int = 2,
        hang_seconds: float = HANG_S,
        command: Sequence[str] = COMMAND,
        events: DirectoryEvents | None = None,
    ) -> None:
        """Watch nothing yet.

        Args:
            last: checkpoints that are averaged, the newest ones.
            min_checkpoints: before there are as many, nothing is averaged.
            poll_seconds: between two looks at a directory.
            num_threads: of the averaging.
            hang_seconds: a child that says nothing for so long is ended.
            command: the child; it reads its request as JSON from standard input.
            events: hears of what is written; closed by `close`.
        """
        self._request = {
            "last": last,
            "min_checkpoints": min_checkpoints,
            "num_threads": num_threads,
        }
        self._minimum = min(min_checkpoints, last)
        self._poll_seconds = poll_seconds
        self._hang_seconds = hang_seconds
        self._command = tuple(command)
        self._events = events or DirectoryEvents()
        self._next_hearing = 0.0
        self._deaf_because: set[type[Exception]] = set()
        self._watched: dict[Path, Watched] = {}
        self._running: _Running | None = None
        self._next_look: float | None = None

    def watch(self, directory: Path, *, run: str | None) -> None:
        """Watch a directory, which may not exist yet; again is allowed and renames the run."""
        key = directory.absolute()
        if key in self._watched:
            self._watched[key].run = run
            return
        self._watched[key] = Watched(key, run)
        self._next_look = None
        logger.info("watching checkpoints in %s", key)

    def unwatch(self, directory: Path) -> None:
        """Watch a directory no longer; what is being averaged in it is still finished."""
        watched = self._watched.pop(directory.absolute(), None)
        if watched is not None:
            self._events.unfollow(watched.directory)
            watched.calls.close()
            logger.info("checkpoints in %s are watched no longer", watched.directory)

    def poll(self, now: float) -> tuple[AverageEvent, ...]:
        """Look where it is time, start or collect a child, and return what ended.

        Args:
            now: monotonic seconds.
        """
        events: list[AverageEvent | None] = []
        running, self._running = self._running, None
        if running is not None:
            events.append(self._guard(running.watched, self._collect, running, now))
        self._hear(now)
        is_poll = self._next_look is None or now >= self._next_look
        if is_poll:
            self._next_look = now + self._poll_seconds
        events += (
            self._guard(watched, self._look, watched, now, is_poll=is_poll)
            for watched in self._watched.values()
            if is_poll or _is_past(watched.settling.next_look, now)
        )
        if self._running is None:
            due = next((watched for watched in self._watched.values() if watched.is_due), None)
            if due is not None:
                events.append(self._guard(due, self._start, due, now))
        return tuple(event for event in events if event is not None)

    def descriptors(self, now: float) -> tuple[int, ...]:
        """Return what to wait for beside everything else: it can be read when a poll is worth it.

        Args:
            now: monotonic seconds.
        """
        return self._events.descriptors if now >= self._next_hearing else ()

    def wait_s(self, now: float) -> float:
        """Return the seconds until a poll is worth it, 0 or more; infinite where none is planned.

        The intervals of polling itself are not among them: they are for whoever calls to keep.

        Args:
            now: monotonic seconds.
        """
        planned = [watched.settling.next_look for watched in self._watched.values()]
        at = min((look_at for look_at in planned if look_at is not None), default=math.inf)
        if now < self._next_hearing:
            at = min(at, self._next_hearing)
        return max(0.0, at - now)

    def is_busy(self) -> bool:
        """Whether an averaging runs or is about to."""
        return self._running is not None or any(
            watched.is_due or watched.is_urgent for watched in self._watched.values()
        )

    def is_retrying(self, directory: Path) -> bool:
        """Whether a failed averaging of a directory will be, or is being, tried again."""
        watched = self._watched.get(directory.absolute())
        if watched is None or watched.retry_at is not None:
            return watched is not None
        is_running = self._running is not None and self._running.watched is watched
        return watched.is_due or is_running

    def flush(self, *directories: Path) -> None:
        """Average what is newest at the next poll, without waiting for it to settle.

        For the end of a run. Poll until `is_busy` is false. Without arguments: all directories.
        """
        keys = [directory.absolute() for directory in directories] or list(self._watched)
        for key in keys:
            if key in self._watched:
                self._watched[key].is_urgent = True
        self._next_look = None

    def status(self) -> dict[str, object]:
        """Return what `trackside status` shows."""
        return {"directories": [self._status_of(watched) for watched in self._watched.values()]}

    def close(self) -> None:
        """End a running child and remove what it was writing; hear nothing any more."""
        self._events.close()
        if self._running is not None:
            running, self._running = self._running, None
            running.child.end()
            running.watched.calls.close(partial(_sweep_beside, running.watched.directory))
        for watched in self._watched.values():
            watched.calls.close()

    def _guard(
        self,
        watched: Watched,
        act: Callable[_P, AverageEvent | None],
        *args: _P.args,
        **kwargs: _P.kwargs,
    ) -> AverageEvent | None:
        """Do something for a directory; what nobody foresaw costs its average and no other's.

        Told once per cause, as a failed averaging.
        """
        try:
            return act(*args, **kwargs)
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            watched.is_due = watched.is_urgent = False
            watched.settling.wait_for_poll()  # or it would be tried again without a pause
            if reason in watched.defects:
                return None
            watched.defects.add(reason)
            logger.exception("checkpoints in %s: nobody foresaw this", watched.directory)
        try:
            return watched.failed(reason, 0.0)
        except Exception:
            logger.exception("checkpoints in %s: this failure is not reported", watched.directory)
            return None

    def _hear(self, now: float) -> None:
        """Take in what the kernel has to say, a burst at once."""
        if now < self._next_hearing:
            return
        try:
            notices = self._events.read()
        except Exception as error:
            notices = ()
            self._events.close()  # the next poll starts anew: what is heard only hastens a look
            if type(error) not in self._deaf_because:
                self._deaf_because.add(type(error))
                logger.exception("file-system events: nobody foresaw this; polling goes on")
        if notices is not None:
            self._next_hearing = now + HEAR_EVERY_S
        for notice in notices or ():
            watched = self._watched.get(notice.directory)
            if watched is not None:
                watched.settling.note(notice.name, notice.happening, now)

    def _look(self, watched: Watched, now: float, *, is_poll: bool) -> None:
        seen = _seen_in(watched)
        if seen is not None and is_poll and self._events.follow(watched.directory):
            watched.settling.note("", Happening.MISSED, now)
            seen = _seen_in(watched)  # what came between the look and the following
        if seen is None:
            watched.settling.wait_for_poll()
            return
        if watched.retry_at is not None and now >= watched.retry_at:
            watched.retry_at = None
            watched.settling.forget()
        settled = watched.settling.observe(
            seen, now, self._poll_seconds, is_urgent=watched.is_urgent
        )
        watched.see(seen, settled, self._minimum)
        watched.is_due = settled is not None and settled.most_of_one_kind >= self._minimum
        # Another run may have the turn now, and looks until then must not take this one away.
        watched.is_urgent &= watched.is_due

    def _start(self, watched: Watched, now: float) -> None:
        watched.is_due = watched.is_urgent = False
        watched.settling.handled(watched.settled)
        request: dict[str, object] = {
            **self._request,
            "directory": str(watched.directory),
            "patterns": watched.settled.patterns,
            "unsettled": sorted(watched.seen.names - watched.settled.names),
        }
        try:
            child = ChildProcess(request, self._command)
        except OSError as error:
            logger.error("averaging in %s cannot start: %s", watched.directory, error)  # noqa: TRY400 - no traceback for the user
            watched.retry_at = now + RETRY_S
            return
        self._running = _Running(watched, child, now, 0, now)

    def _collect(self, running: _Running, now: float) -> AverageEvent | None:
        if running.child.is_running():
            said = running.child.num_bytes_said()
            if said != running.num_bytes_said:
                running.num_bytes_said, running.last_sign = said, now
            if now - running.last_sign < self._hang_seconds:
                self._running = running
                return None
            running.child.end()
            reason = f"the averaging process gave no sign of life for {self._hang_seconds:g} s"
            return self._crashed(running, reason, now)
        message = running.child.last_message()
        reason = running.child.failure()
        running.child.end()
        if "status" not in message:
            return self._crashed(running, reason, now)
        return self._ended(running, message, now)

    def _ended(
        self, running: _Running, message: Mapping[str, object], now: float
    ) -> AverageEvent | None:
        watched = running.watched
        watched.outcome = outcome_of(message)
        if message.get("may_heal") is True:
            watched.retry_at = now + min(RETRY_S * 2**watched.failures, MAX_RETRY_S)
            watched.failures += 1
        else:
            watched.failure, watched.failures = None, 0
        watched.warn_of_refused()
        match message:
            case {"status": "averaged", "made": dict(made)}:
                watched.last = event = event_of(made, watched.directory, watched.run)
                logger.info(
                    "averaged %d checkpoints up to step %s into %s in %.1f s",
                    len(event.sources),
                    event.step,
                    event.output,
                    event.seconds,
                )
                return event
            case {"status": "unchanged", "made": dict(made)} if watched.last is None:
                # The service before this one may have been killed before it told anyone.
                found = event_of(made, watched.directory, watched.run)
                watched.last = replace(found, is_found=True)
                return watched.last
            case {"status": "failed", "error": str(error)}:
                return self._refused(running, error, now)
            case _:  # unchanged, or waiting for more checkpoints
                return None

    def _refused(self, running: _Running, reason: str, now: float) -> AverageEvent | None:
        """Note a failure, once for each reason while the same checkpoints are tried again."""
        is_known = reason == running.watched.failure
        running.watched.failure = reason
        return None if is_known else self._failed(running, reason, now)

    def _crashed(self, running: _Running, reason: str, now: float) -> AverageEvent:
        watched = running.watched
        watched.calls.do(NEVER_ASKED, partial(_sweep_beside, watched.directory))
        watched.crashes += 1
        if watched.crashes < MAX_CRASHES:
            watched.retry_at = now + RETRY_S
        return self._failed(running, reason, now)

    def _failed(self, running: _Running, reason: str, now: float) -> AverageEvent:
        watched = running.watched
        logger.error("averaging in %s failed: %s", watched.directory, reason)
        return watched.failed(reason, now - running.started)

    def _status_of(self, watched: Watched) -> dict[str, object]:
        progress: object = None
        running = self._running
        is_averaging = running is not None and running.watched is watched
        if running is not None and is_averaging:
            progress = running.child.last_message().get("progress")
        return {
            **watched.status(self._minimum, is_averaging=is_averaging),
            "progress": progress,
            "polled_because": self._events.problem_of(watched.directory),
        }


def _seen_in(watched: Watched) -> Look | None:
    """Look at a directory; None where its file system takes its time, or does not answer."""
    call = watched.calls.do(NEVER_ASKED, lambda: look(watched.directory))
    watched.tell_silence()
    seen: Look | None = None if call is None else call.result()
    return seen


def _sweep_beside(directory: Path) -> None:
    sweep(placement_for(directory).directory)


def _is_past(moment: float | None, now: float) -> bool:
    return moment is not None and now >= moment
