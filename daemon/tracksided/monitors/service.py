"""The daemon's side of the monitoring: asks a child for a reading now and then, never waits.

Why a child and not a thread: a thread that waits inside of a wedged driver or file server cannot
be ended, and holds up the end of the whole process. A child can be left to itself. The monitor at
which a child hung or died is left out until that child is gone and some time has passed; the other
monitors go on in a new child.
"""

import logging
import sys
from dataclasses import replace

from tracksided.monitors.monitor import Began, Watched
from tracksided.monitors.reading import HostReading
from tracksided.monitors.settings import MonitorSettings
from tracksided.talking import TalkingChild

logger = logging.getLogger(__name__)

COMMAND = (sys.executable, "-P", "-m", "tracksided.monitors.child")
GPUS = "gpus"
FIRST_INTERVAL_S = 1.0  # rates need two readings: the second one comes soon
SILENCE_S = 20.0  # in one monitor; a polite child on a full machine may wait for seconds
MAX_GAP_S = 5.0  # between two polls; after more we were stopped ourselves
RETRY_S = 60.0  # until a monitor that hung, or a child that cannot be started, is tried again
MAX_AGE = 3.0  # of a reading, in intervals


class MonitorService:
    """Keeps the newest reading. One thread; no call waits."""

    def __init__(self, settings: MonitorSettings) -> None:
        self._settings = settings
        self._child: TalkingChild | None = None
        self._reading: HostReading | None = None
        self._read_at = 0.0
        self._num_readings = 0  # of this child
        self._is_asked = False
        self._at: str | None = None  # the monitor at which the child is
        self._deadline = 0.0
        self._next = 0.0
        self._polled_at = 0.0
        self._left_out: dict[str, float] = {}  # monitor to until when
        self._stuck: list[tuple[str | None, TalkingChild]] = []  # where, and who
        self.problem: str | None = None
        """What is missing from the readings and why, None while all is well."""

    @property
    def pid(self) -> int | None:
        """Process id of the child, None where none runs."""
        return None if self._child is None else self._child.process.pid

    def latest(self, now: float) -> HostReading | None:
        """Return the newest reading; None where there is none, or it is too old to be true."""
        max_age_s = MAX_AGE * self._settings.every_seconds
        is_fresh = self._reading is not None and now - self._read_at <= max_age_s
        return self._reading if is_fresh else None

    def is_due(self, now: float) -> bool:
        """Whether it is time to `ask`."""
        return self._settings.enabled and not self._is_asked and now >= self._next

    def ask(self, watched: Watched, now: float) -> None:
        """Ask for a reading; it comes by `poll`."""
        self._next = now + self._settings.every_seconds
        if None in (where for where, _ in self._stuck):
            return  # another child would hang in the same place, before any monitor
        child = self._child or self._start(now)
        if child is None:
            return
        self._is_asked, self._at, self._deadline = True, None, now + SILENCE_S
        without = self._missing(now) | (set() if self._settings.gpus else {GPUS})
        child.send(replace(watched, without=watched.without | without))

    def poll(self, now: float) -> None:
        """Take what the child has said; leave it where it is silent for too long."""
        self._stuck = [entry for entry in self._stuck if not entry[1].is_gone]
        if now - self._polled_at > MAX_GAP_S:
            self._deadline = max(self._deadline, now + SILENCE_S)
        self._polled_at = now
        while self._child is not None:
            said = self._child.answer()
            if said is None:
                break
            self._hear(self._child, said, now)
        if self._child is not None and self._is_asked and now >= self._deadline:
            silence = f"the monitoring process did not answer for {SILENCE_S:g} s"
            self._lose(self._child, silence, now)

    def close(self) -> None:
        """End the child; one that cannot be ended within a moment is left behind."""
        if self._child is not None:
            self._child.part()
        self._child = None

    def _start(self, now: float) -> TalkingChild | None:
        try:
            self._child = TalkingChild(COMMAND)
        except (OSError, RuntimeError) as error:  # RuntimeError: no thread can be started
            self._next = now + RETRY_S
            self._complain(f"the monitoring process cannot be started: {error}")
            return None
        self._num_readings = 0
        return self._child

    def _hear(self, child: TalkingChild, said: object, now: float) -> None:
        if isinstance(said, Began):
            self._at, self._deadline = said.monitor, now + SILENCE_S
        elif isinstance(said, HostReading):
            self._reading, self._read_at = said, now
            self._is_asked, self._at = False, None
            self._num_readings += 1
            if self._num_readings == 1:
                self._next = min(self._next, now + FIRST_INTERVAL_S)
            if self.problem is not None and not self._missing(now):
                logger.warning("readings are complete again after: %s", self.problem)
                self.problem = None
        else:
            self._lose(child, "the monitoring process ended", now)

    def _lose(self, child: TalkingChild, what: str, now: float) -> None:
        """Leave a child that is silent or dying to itself, and remember where it was.

        A driver can hold up the end of a process, too: nothing here waits for it.
        """
        child.abandon()
        self._stuck.append((self._at, child))
        self._child, self._is_asked = None, False
        if self._at is None:
            self._next = now + RETRY_S
            self._complain(f"{what}; it is tried again in {RETRY_S:g} s")
        else:
            self._next = now
            self._left_out[self._at] = now + RETRY_S
            self._complain(f"{what} while it looked at {self._at}, which are left out for a while")

    def _missing(self, now: float) -> set[str]:
        """Name the monitors that hung or died lately."""
        waiting = {name for name, until in self._left_out.items() if now < until}
        return waiting | {name for name, _ in self._stuck if name is not None}

    def _complain(self, problem: str) -> None:
        if problem != self.problem:
            self.problem = problem
            logger.warning("%s", problem)
