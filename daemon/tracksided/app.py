"""The daemon: builds the parts and turns the loop."""

import logging
import os
import time
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import ParamSpec, TypeVar

from trackside.wire.doorbell import Listener
from trackside.wire.segment import ensure_node_directory
from tracksided.channels.service import AlertSender
from tracksided.checkpoints.outcomes import AverageEvent
from tracksided.checkpoints.service import CheckpointService
from tracksided.config import Settings, public_settings
from tracksided.descriptors import allow_many_files
from tracksided.errors import SettingsError
from tracksided.intake import Intake
from tracksided.lifecycle import DaemonLock, ServiceNotifier, Signals
from tracksided.monitors.monitor import Watched, together
from tracksided.monitors.service import MonitorService
from tracksided.patient_outputs import PatientOutputs
from tracksided.pool import WorkerPool
from tracksided.reports import Scalar, Text
from tracksided.runs import Run, State
from tracksided.sinks.json_file import plain
from tracksided.status_file import StatusFile
from tracksided.web_process import WebProcess

logger = logging.getLogger(__name__)

_P = ParamSpec("_P")
_Result = TypeVar("_Result")

BUSY_WAIT_S = 0.02  # while workers are at it: their answers ring no doorbell
DRAIN_S = 8.0  # of the 10 s in which a service manager expects us to be gone
LINGER_S = 600.0  # a script may save its last checkpoint after the session has ended
AVERAGE_TAG = "Checkpoints/Averaged"
SOURCES_TAG = "Checkpoints/Sources"  # readers know one kind of value to a tag


class Daemon:
    """Serves all runs of one node-local directory until it is told to stop. One thread."""

    def __init__(
        self,
        directory: Path,
        load: Callable[[], Settings],
        *,
        idle_exit_s: float | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """Take the directory over.

        Args:
            directory: the node-local one.
            load: reads the settings, now and at every SIGHUP.
            idle_exit_s: after so long without a run it ends; None: never.
            clock: monotonic seconds.
            wall_clock: Unix time in seconds.

        Raises:
            SegmentRefused: the directory is not ours alone.
            DaemonRunning: another daemon serves it.
            DoorbellUnavailable: the socket cannot be made.
            SettingsError: the settings cannot be used.
        """
        self._load = load
        self._settings = load()
        self._clock = clock
        self._wall_clock = wall_clock
        self._idle_exit_s = idle_exit_s
        ensure_node_directory(directory)
        self._lock = DaemonLock(directory)
        self._listener = Listener(directory)
        self._status = StatusFile(directory)
        self._sender = AlertSender(self._settings.alerts)
        self._intake = Intake(directory, self._sender.tell, wall_clock)
        self._pool = WorkerPool(self._settings.workers)
        self._checkpoints = self._checkpoint_service()
        self._averages = {"published": 0, "failed": 0}
        self._web = WebProcess(self._settings.http, directory)
        self._monitors = MonitorService(self._settings.monitors)
        self._directory = directory
        self._version = version("trackside")
        self._started_at = wall_clock()
        self._next_look = 0.0
        self._last_activity = clock()
        self._is_averaging_outdated = False
        self._unwatch_after: dict[Path, float] = {}

    def run(self, signals: Signals, notifier: ServiceNotifier) -> int:
        """Serve until a signal or idleness ends it; return the exit code."""
        allow_many_files()
        logger.info("serving %s, pid %d", self._directory, os.getpid())
        notifier.send("READY=1", f"STATUS=serving {self._directory}")
        try:
            while not signals.stop and not self._is_idle_for_too_long():
                if signals.reload:
                    signals.reload = False
                    self._reload(notifier)
                self._turn(self._wait_s(notifier))
                notifier.feed_watchdog()
            notifier.send("STOPPING=1")
            self._drain()
        finally:
            self._close()
        return 0

    def _turn(self, wait_s: float) -> None:
        """Do once all that there is to do."""
        before = self._clock()
        wait_s = min(wait_s, self._checkpoints.wait_s(before))
        rang = self._listener.wait(wait_s, self._checkpoints.descriptors(before))
        now = self._clock()
        if rang or now >= self._next_look:
            self._next_look = now + self._settings.poll_seconds
            self._keep_place()
            for run in self._intake.look(self._settings, now):
                for directory in run.checkpoint_directories:
                    self._checkpoints.watch(directory, run=run.run_id)
        self._look_at_machine(now)
        self._serve(now)
        self._web.poll(now)
        self._write_status(now)
        if not self._is_idle():
            self._last_activity = now

    def _keep_place(self) -> None:
        """Move in anew where somebody removed the node-local directory, or the socket in it.

        Raises:
            SegmentRefused: the directory that stands there now is not ours alone.
            DaemonRunning: another daemon was quicker.
        """
        if not self._lock.is_in_place:
            logger.error(
                "%s was removed under the daemon, with all that was not read yet; systemd-logind "
                "does so at logout, `loginctl enable-linger` prevents it, see `trackside doctor`",
                self._directory,
            )
            ensure_node_directory(self._directory)
            lost, self._lock = self._lock, DaemonLock(self._directory)
            lost.release()
        if not self._listener.is_in_place:
            logger.warning("the doorbell in %s was removed; it is made anew", self._directory)
            self._listener.close()
            self._listener = Listener(self._directory)

    def _look_at_machine(self, now: float) -> None:
        """Hand the newest reading to the runs; ask for another when it is time."""
        self._monitors.poll(now)
        runs = self._intake.runs
        if runs and self._monitors.is_due(now):
            own = Watched(paths=(str(self._directory),))
            self._monitors.ask(together([own, *(run.watched() for run in runs)]), now)
        reading = self._monitors.latest(now)
        for run in runs:
            self._guard(run, run.note_machine, reading)

    def _serve(self, now: float) -> None:
        """Move every run and the checkpoints forward."""
        current = self._intake.current
        self._advance_all(current, now)
        outcomes = self._pool.poll(now)
        for ticket, outcome in outcomes:
            for run in self._intake.runs:  # also of one that is held back since its trainer ended
                if self._guard(run, run.receive, ticket, outcome, now):
                    break
        if outcomes:
            self._advance_all(current, now)
        for event in self._checkpoints.poll(now):
            self._note_average(event)
        self._sender.poll(now)
        is_averaging = self._checkpoints.is_busy()
        if self._is_averaging_outdated and not is_averaging:
            self._checkpoints.close()
            self._checkpoints = self._checkpoint_service()
            self._is_averaging_outdated = False
        for run in current:
            if self._guard(run, run.end, self._pool, now, is_averaging=is_averaging):
                self._intake.remove(run)
                self._unwatch_after |= dict.fromkeys(run.checkpoint_directories, now + LINGER_S)
        self._unwatch(now)

    def _advance_all(self, runs: Iterable[Run], now: float) -> None:
        """Move every run, first those that have waited longest for a worker.

        In a fixed order a run that publishes faster than workers can follow would keep them from
        all others.
        """
        for run in sorted(runs, key=lambda run: run.dispatched_at):
            self._guard(run, self._advance, run, now)

    def _advance(self, run: Run, now: float) -> None:
        was = run.state
        run.advance(self._pool, now)
        if run.state is State.ENDING and was is not State.ENDING and run.checkpoint_directories:
            self._checkpoints.flush(*run.checkpoint_directories)

    def _guard(
        self, run: Run, act: Callable[_P, _Result], *args: _P.args, **kwargs: _P.kwargs
    ) -> _Result | None:
        """Do something for a run; what nobody foresaw costs that run and no other."""
        try:
            return act(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 - the boundary of a run, logged by it
            run.break_off(error)
            return None

    def _unwatch(self, now: float) -> None:
        """Leave the checkpoints of runs alone that ended a while ago and nobody else wants."""
        over = [path for path, since in self._unwatch_after.items() if now >= since]
        for path in over:
            if self._checkpoints.is_retrying(path):
                self._unwatch_after[path] = now + LINGER_S
                continue
            del self._unwatch_after[path]
            in_use = (run.checkpoint_directories for run in self._intake.runs)
            is_wanted = path in self._set_directories() or any(path in paths for paths in in_use)
            if not is_wanted:
                self._checkpoints.unwatch(path)

    def _set_directories(self) -> tuple[Path, ...]:
        return tuple(Path(name).expanduser() for name in self._settings.checkpoints.directories)

    def _wait_s(self, notifier: ServiceNotifier) -> float:
        if not self._pool.is_idle or any(run.has_work for run in self._intake.current):
            return BUSY_WAIT_S
        longest = self._settings.poll_seconds
        return longest if notifier.watchdog_s is None else min(longest, notifier.watchdog_s / 3)

    def _is_idle(self) -> bool:
        is_busy = self._checkpoints.is_busy() or self._sender.is_busy
        return not self._intake.runs and not is_busy

    def _is_idle_for_too_long(self) -> bool:
        if self._idle_exit_s is None or not self._is_idle():
            return False
        if self._clock() - self._last_activity < self._idle_exit_s:
            return False
        logger.info("nothing to do for %g s, ending", self._idle_exit_s)
        return True

    def _drain(self) -> None:
        """Finish what is published, within the time that a service manager gives."""
        deadline = self._clock() + DRAIN_S
        self._turn(0)
        while self._clock() < deadline and (self._sender.is_busy or self._num_unwritten()):
            self._turn(BUSY_WAIT_S)
        left = self._num_unwritten()
        if left:
            logger.warning("steps are left of %d of the runs; they stay in shared memory", left)

    def _num_unwritten(self) -> int:
        return sum(run.has_work for run in self._intake.runs) + self._intake.num_held_back

    def _close(self) -> None:
        self._web.close()
        self._pool.close()
        self._checkpoints.close()
        self._monitors.close()
        self._sender.close()
        self._intake.close()
        self._listener.close()
        if self._lock.is_in_place:  # else what lies there is another daemon's
            self._status.remove()
        self._lock.release()

    def _checkpoint_service(self) -> CheckpointService:
        settings = self._settings.checkpoints
        service = CheckpointService(
            last=settings.last,
            min_checkpoints=settings.min_checkpoints,
            poll_seconds=settings.poll_seconds,
        )
        for directory in self._set_directories():
            service.watch(directory, run=None)
        for run in self._intake.runs:
            for directory in run.checkpoint_directories:
                service.watch(directory, run=run.run_id)
        return service

    def _reload(self, notifier: ServiceNotifier) -> None:
        notifier.send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
        try:
            self._settings = self._load()
        except SettingsError as error:
            logger.error("settings are not reloaded, the old ones stay: %s", error)  # noqa: TRY400 - no traceback for the user
        else:
            self._apply_reload()
        notifier.send("READY=1")

    def _apply_reload(self) -> None:
        """Hand the settings on to the parts that they shape; what is under way is finished."""
        self._web.configure(self._settings.http)
        self._pool.configure(self._settings.workers)
        self._sender.configure(self._settings.alerts)
        self._monitors.close()
        self._monitors = MonitorService(self._settings.monitors)
        for run in self._intake.runs:
            run.configure(self._settings)
        self._is_averaging_outdated = True
        logger.info("settings reloaded")

    def _note_average(self, event: AverageEvent) -> None:
        """Count an averaging; write it to the outputs of the run whose checkpoints they are."""
        runs = [run for run in self._intake.runs if run.run_id == event.run]
        if not event.is_found:
            self._averages["failed" if event.error else "published"] += 1
            for run in runs:
                self._guard(run, run.note_average, event.error)
        outputs = None if event.run is None else self._intake.outputs_of(event.run)
        if outputs is not None:
            self._guard(runs[0], self._write_average, event, outputs, runs)

    def _write_average(
        self, event: AverageEvent, outputs: PatientOutputs, runs: Sequence[Run]
    ) -> None:
        average = {
            "output": str(event.output),
            "step": event.step,
            "sources": list(event.sources),
            "seconds": event.seconds,
            "error": event.error,
        }
        if event.is_found and (
            outputs.has_average(average) or event.created < min(run.started_at for run in runs)
        ):
            return  # noted by the daemon that made it, or older than the run
        step = outputs.last_step if event.step is None else event.step
        text = event.error or f"{event.output.name}: average of {', '.join(event.sources)}"
        scalars = () if event.error else (Scalar(AVERAGE_TAG, float(len(event.sources)), step),)
        outputs.note_average(average, scalars, (Text(SOURCES_TAG, text, step),))

    def _write_status(self, now: float) -> None:
        if self._status.is_due(now):
            self._status.write(
                {
                    "version": self._version,
                    "started_at": self._started_at,
                    "directory": str(self._directory),
                    "settings": plain(public_settings(self._settings)),
                    "runs": [run.status() for run in self._intake.runs],
                    "refused": self._intake.refused,
                    "checkpoints": self._checkpoints.status(),
                    "averages": dict(self._averages),
                    "monitors": {"pid": self._monitors.pid, "problem": self._monitors.problem},
                    "workers": {"pids": list(self._pool.pids()), "deaths": self._pool.deaths},
                    "http": self._web.status(),
                },
                now,
                self._wall_clock(),
            )
