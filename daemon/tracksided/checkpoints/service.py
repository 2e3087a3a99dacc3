"""Watch directories for the daemon, and average what is newest in a child process."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ParamSpec

from tracksided.checkpoints.job import DEFAULT_COUNT
from tracksided.checkpoints.outcomes import AverageEvent, Outcome, event_of, outcome_of
from tracksided.checkpoints.process import COMMAND, ChildProcess
from tracksided.checkpoints.publish import sweep
from tracksided.checkpoints.watcher import Look, Settling, look

logger = logging.getLogger(__name__)

_P = ParamSpec("_P")

DEFAULT_MINIMUM = 3
HANG_S = 600.0  # without a sign of life; a block takes seconds even on a starved machine
RETRY_S = 60.0  # after a crash: memory may be free again
MAX_REFUSED = 10  # in the status; the log names all
MAX_CRASHES = 3  # of one set of checkpoints, then it waits for another set


@dataclass(slots=True)
class _Watched:
    directory: Path
    run: str | None
    settling: Settling = field(default_factory=Settling)
    seen: Look = field(default_factory=lambda: Look(frozenset()))
    is_due: bool = False
    is_urgent: bool = False
    is_rotated: bool = False
    """Checkpoints were removed before there were enough of them."""

    crashes: int = 0
    retry_at: float | None = None
    last: AverageEvent | None = None
    outcome: Outcome = field(default_factory=Outcome)
    warned: set[tuple[str, str]] = field(default_factory=set)
    defects: set[str] = field(default_factory=set)

    @property
    def refused(self) -> tuple[tuple[str, str], ...]:
        """Names and reasons of the last averaging, and of what was not even looked at."""
        return (*self.outcome.refused, *self.seen.refused)


@dataclass(slots=True)
class _Running:
    watched: _Watched
    child: ChildProcess
    started: float
    num_bytes_said: int
    last_sign: float


class CheckpointService:
    """Averages checkpoints as they appear. One thread calls it; no call waits for a child.

    States of a directory: unchanged -> changed -> settled (due) -> averaging -> unchanged.
    """

    def __init__(
        self,
        *,
        last: int = DEFAULT_COUNT,
        min_checkpoints: int = DEFAULT_MINIMUM,
        poll_seconds: float = 5.0,
        num_threads: int = 2,
        hang_seconds: float = HANG_S,
        command: Sequence[str] = COMMAND,
    ) -> None:
        """Watch nothing yet.

        Args:
            last: checkpoints that are averaged, the newest ones.
            min_checkpoints: before there are as many, nothing is averaged.
            poll_seconds: between two looks at a directory.
            num_threads: of the averaging.
            hang_seconds: a child that says nothing for so long is ended.
            command: the child; it reads its request as JSON from standard input.
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
        self._watched: dict[Path, _Watched] = {}
        self._running: _Running | None = None
        self._next_look: float | None = None

    def watch(self, directory: Path, *, run: str | None) -> None:
        """Watch a directory, which may not exist yet; again is allowed and renames the run."""
        key = directory.absolute()
        if key in self._watched:
            self._watched[key].run = run
            return
        self._watched[key] = _Watched(key, run)
        self._next_look = None
        logger.info("watching checkpoints in %s", key)

    def unwatch(self, directory: Path) -> None:
        """Watch a directory no longer; what is being averaged in it is still finished."""
        watched = self._watched.pop(directory.absolute(), None)
        if watched is not None:
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
        if self._next_look is None or now >= self._next_look:
            self._next_look = now + self._poll_seconds
            events += [
                self._guard(watched, self._look, watched, now) for watched in self._watched.values()
            ]
        if self._running is None:
            due = next((watched for watched in self._watched.values() if watched.is_due), None)
            if due is not None:
                events.append(self._guard(due, self._start, due, now))
        return tuple(event for event in events if event is not None)

    def is_busy(self) -> bool:
        """Whether an averaging runs or is about to."""
        return self._running is not None or any(
            watched.is_due or watched.is_urgent for watched in self._watched.values()
        )

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
        return {"directories": [self._status_of(entry) for entry in self._watched.values()]}

    def close(self) -> None:
        """End a running child and remove what it was writing."""
        if self._running is not None:
            running, self._running = self._running, None
            running.child.end()
            sweep(running.watched.directory)

    def _guard(
        self,
        watched: _Watched,
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
            if reason in watched.defects:
                return None
            watched.defects.add(reason)
            logger.exception("checkpoints in %s: nobody foresaw this", watched.directory)
            watched.last = _failure(watched, reason, 0.0)
            return watched.last

    def _look(self, watched: _Watched, now: float) -> None:
        if watched.retry_at is not None and now >= watched.retry_at:
            watched.retry_at = None
            watched.settling.forget()
        seen = look(watched.directory)
        is_new = watched.settling.observe(seen, is_urgent=watched.is_urgent)
        if seen != watched.seen:
            watched.crashes, watched.retry_at = 0, None
        self._note_rotation(watched, seen)
        watched.seen = seen
        self._warn_of_refused(watched)
        watched.is_due = is_new and seen.most_of_one_kind >= self._minimum
        watched.is_urgent = False

    def _note_rotation(self, watched: _Watched, seen: Look) -> None:
        """Find out, and say once, that the training removes checkpoints before there are enough."""
        kept = seen.most_of_one_kind
        was_rotated, is_less = watched.is_rotated, not watched.seen.names <= seen.names
        watched.is_rotated = 0 < kept < self._minimum and (was_rotated or is_less)
        if watched.is_rotated and not was_rotated:
            message = "nothing is averaged in %s: %d checkpoints are kept, %d are needed"
            logger.warning(message, watched.directory, kept, self._minimum)

    def _start(self, watched: _Watched, now: float) -> None:
        watched.is_due = False
        watched.settling.handled(watched.seen)
        request: dict[str, object] = {
            **self._request,
            "directory": str(watched.directory),
            "patterns": watched.seen.patterns,
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
        self._warn_of_refused(watched)
        match message:
            case {"status": "averaged", "made": dict(made)}:
                watched.last = event = event_of(made, watched.directory, watched.run)
                logger.info(
                    "averaged %d checkpoints up to step %s into %s in %.1f s",
                    len(event.sources),
                    event.step,
                    event.output,
                    event.seconds,
                )  # fmt: skip - arguments on one line
                return event
            case {"status": "unchanged", "made": dict(made)} if watched.last is None:
                # The service before this one may have been killed before it told anyone.
                found = event_of(made, watched.directory, watched.run)
                watched.last = replace(found, is_found=True)
                return watched.last
            case {"status": "failed", "error": str(error)}:
                return self._failed(running, error, now)
            case _:  # unchanged, or waiting for more checkpoints
                return None

    def _crashed(self, running: _Running, reason: str, now: float) -> AverageEvent:
        watched = running.watched
        sweep(watched.directory)
        watched.crashes += 1
        if watched.crashes < MAX_CRASHES:
            watched.retry_at = now + RETRY_S
        return self._failed(running, reason, now)

    def _failed(self, running: _Running, reason: str, now: float) -> AverageEvent:
        watched = running.watched
        logger.error("averaging in %s failed: %s", watched.directory, reason)
        watched.last = event = _failure(watched, reason, now - running.started)
        return event

    def _warn_of_refused(self, watched: _Watched) -> None:
        """Log each reason once per file."""
        for name, reason in watched.refused:
            if (name, reason) not in watched.warned:
                watched.warned.add((name, reason))
                logger.warning("not averaged: %s: %s", watched.directory / name, reason)

    def _status_of(self, watched: _Watched) -> dict[str, object]:
        last = watched.last
        kept = watched.seen.most_of_one_kind if watched.is_rotated else None
        state = "due" if watched.is_due or watched.is_urgent else "idle"
        progress: object = None
        if self._running is not None and self._running.watched is watched:
            state = "averaging"
            progress = self._running.child.last_message().get("progress")
        return {
            "directory": str(watched.directory),
            "run": watched.run,
            "state": state,
            "progress": progress,
            "num_files": len(watched.seen.names),
            "outcome": watched.outcome.status if kept is None else "waiting",
            "missing": watched.outcome.missing if kept is None else self._minimum - kept,
            "kept": kept,
            "refused": [
                {"name": name, "reason": reason} for name, reason in watched.refused[:MAX_REFUSED]
            ],
            "last": None
            if last is None
            else {
                "output": str(last.output),
                "step": last.step,
                "sources": list(last.sources),
                "seconds": last.seconds,
                "error": last.error,
            },
        }


def _failure(watched: _Watched, reason: str, seconds: float) -> AverageEvent:
    output = watched.directory / watched.seen.default_output
    return AverageEvent(watched.directory, watched.run, output, None, (), seconds, reason)
