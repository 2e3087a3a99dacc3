"""All files of one output directory that the daemon's own process writes.

The order of writes is what makes a step appear exactly once: TensorBoard first, then the line in
``history.jsonl``, which is the commit and says how far TensorBoard's file was written. Alerts are
committed with that line, or with ``run.json`` where they belong to no step; ``alerts.jsonl``
follows, and what a kill kept from it is added when the directory is opened again.
"""

import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from trackside.wire.records import Hello
from tracksided.alerts.document import alert_document, read_alert
from tracksided.assemble import SCHEMA
from tracksided.errors import ObservationError
from tracksided.observations import MEMORY_STEPS
from tracksided.reports import Alert, Scalar, SegmentProgress, StepReport, Text
from tracksided.sinks.alerts import AlertsFile
from tracksided.sinks.folder import sweep, write_step_folder
from tracksided.sinks.history import HistoryFile
from tracksided.sinks.json_file import Json, plain_object, read_json, write_json
from tracksided.sinks.refusal import output_error
from tracksided.sinks.tensorboard import (
    Commit,
    TensorBoardSink,
    truncate_uncommitted,
    written_so_far,
)

logger = logging.getLogger(__name__)

RUN_FILE = "run.json"
TOTALS_FILE = "training_statistics.json"
TENSORBOARD_DIR = "tensorboard"
EVENTS_KEY = "tensorboard"  # of run.json: how far events were written that belong to no step
MAX_ALERTS = 20  # without a step, kept in run.json until they stand in their own file
MAX_AVERAGES = 1000  # kept in run.json; the newest stay


class RunOutputs:
    """Writes one output directory. One thread, one process.

    Every method that writes raises `OutputError` where it cannot; nothing is committed then, and
    the same call may be made again later.
    """

    def __init__(self, directory: Path, wall_clock: Callable[[], float]) -> None:
        """Open the directory; cut what a killed daemon left uncommitted.

        Args:
            directory: made when needed.
            wall_clock: Unix time in seconds.

        Raises:
            OutputError: it cannot be made, read or written.
        """
        self.directory = directory
        self._wall_clock = wall_clock
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise output_error(directory, error) from error
        sweep(directory)
        events = directory / TENSORBOARD_DIR
        self._tensorboard = TensorBoardSink(events, wall_time=self._wall_clock())
        self._written: tuple[int, Commit] | None = None
        self._shown: set[str] = set()  # alerts whose text is written, and which are not committed
        self._run: dict[str, Json] = read_json(directory / RUN_FILE) or {}
        self._history = HistoryFile(directory)
        with contextlib.ExitStack() as on_failure:
            on_failure.callback(self._history.close)
            if not (self._run or self._history.committed):
                self._keep_what_was_brought()
            truncate_uncommitted(events, self._committed())
            self._alerts = AlertsFile(directory)
            self._alerts.add(self._committed_alerts())
            on_failure.pop_all()

    @property
    def alerts(self) -> tuple[Alert, ...]:
        """All alerts that were raised in this directory, oldest first."""
        return self._alerts.alerts

    def newest_lines(self) -> list[Mapping[str, Any]]:
        """Return the newest lines of ``history.jsonl``, oldest first: what rules look back at."""
        return self._history.newest(MEMORY_STEPS)

    def begin(self, hello: Hello) -> None:
        """Note in ``run.json`` that a run has begun, or goes on."""
        if self._run.get("run") != hello.run:
            position = self._run.get(EVENTS_KEY)
            self._run = {"averages": []}
            if position is not None:  # the last events of the run before are in no line of history
                self._run[EVENTS_KEY] = position
        self._write_run(
            {
                "schema": SCHEMA,
                "run": hello.run,
                "state": "running",
                "save_dir": hello.save_dir,
                "world_size": hello.world_size,
                "hostname": hello.hostname,
                "attempt": hello.attempt,
                "started_at": hello.started_at,
                "every": hello.every,
                "visualize": list(hello.visualize),
                "checkpoints": list(hello.checkpoints),
                "config": hello.config,
                "versions": hello.versions,
            }
        )

    @property
    def last_step(self) -> int:
        """The newest step that is committed; 0 before the first one."""
        return self._history.last_step

    @property
    def rival(self) -> str | None:
        """Who else writes to the directory, and what to do about it; None where nobody does."""
        return self._history.rival

    def progress(self, nonce: str) -> SegmentProgress:
        """Return what is committed of a segment."""
        return self._history.progress(nonce)

    def is_finished(self, nonces: Sequence[str]) -> bool:
        """Whether `finish` has been called for one of these segments."""
        finished = self._run.get("finished_segments")
        return isinstance(finished, list) and any(nonce in finished for nonce in nonces)

    def is_reported(self, nonces: Sequence[str]) -> bool:
        """Whether `note_report` has been called for one of these segments."""
        reported = self._run.get("reported_segments")
        return isinstance(reported, list) and any(nonce in reported for nonce in nonces)

    def note_report(self, nonces: Sequence[str]) -> None:
        """Note in ``run.json`` that the final report was made, or cannot be."""
        self._write_run({"reported_segments": list(nonces)})

    def write_folder(self, folder: str, statistics: Mapping[str, object] | None) -> None:
        """Write the folder of a step without pictures, in the place of a worker.

        Args:
            folder: its name.
            statistics: content of ``statistics.json``; None for no such file.
        """
        write_step_folder(self.directory, folder, statistics=statistics, pictures=(), raw=())

    def commit(self, report: StepReport, records: Mapping[int, tuple[str, int]]) -> None:
        """Write a step to TensorBoard and history; when this returns it is committed.

        Args:
            report: of the step.
            records: rank to (nonce of its segment, sequence number).
        """
        if self._written is None or self._written[0] != report.step:
            if report.step <= self._history.last_step:
                # Training went back: what lies ahead of this step belongs to an abandoned try.
                self._tensorboard.rollback(report.step)
            commit = self._tensorboard.write(report, wall_time=report.history["timestamp"])
            self._written = (report.step, commit)
        self._history.append(report.history, records, self._written[1])
        self._written = None
        self._alerts.add(report.alerts)

    def note_alerts(self, alerts: Sequence[Alert], texts: Sequence[Text]) -> None:
        """Note alerts that belong to no step; when this returns they are committed.

        Args:
            alerts: to be noted.
            texts: what TensorBoard shows, one of each alert.
        """
        known = self._run.get("alerts")
        documents = [alert_document(alert) for alert in alerts]
        pairs = zip(alerts, texts, strict=True)
        self._write_events((), [text for alert, text in pairs if alert.id not in self._shown])
        self._shown |= {alert.id for alert in alerts}
        self._write_run(
            {"alerts": [*(known if isinstance(known, list) else []), *documents][-MAX_ALERTS:]}
        )
        self._shown.clear()
        self._alerts.add(alerts)

    def has_average(self, average: Mapping[str, object]) -> bool:
        """Whether `note_average` was called for an averaging."""
        averages = self._run.get("averages")
        return isinstance(averages, list) and plain_object(average) in averages

    def note_average(
        self, average: Mapping[str, object], scalars: Sequence[Scalar], texts: Sequence[Text]
    ) -> None:
        """Note an averaging in ``run.json``, TensorBoard and, after the end, in the totals.

        Args:
            average: its entry in ``averages``.
            scalars: of the averaging.
            texts: of the averaging.
        """
        self._write_events(scalars, texts)
        averages = self._run.get("averages")
        known = averages if isinstance(averages, list) else []
        self._write_run({"averages": [*known, plain_object(average)][-MAX_AVERAGES:]})
        totals = read_json(self.directory / TOTALS_FILE)
        if totals is not None and totals.get("run") == self._run.get("run"):
            write_json(self.directory / TOTALS_FILE, {**totals, "averages": self._run["averages"]})

    def finish(
        self,
        totals: Mapping[str, object],
        scalars: Sequence[Scalar],
        texts: Sequence[Text],
        nonces: Sequence[str],
    ) -> None:
        """Write what is written once, at the end of a run.

        Args:
            totals: the content of ``training_statistics.json``, with ``state``.
            scalars: of the run as a whole.
            texts: of the run as a whole.
            nonces: of the segments that are finished with it.
        """
        self._write_events(scalars, texts)
        averages = self._run.get("averages", [])
        write_json(self.directory / TOTALS_FILE, {**totals, "averages": averages})
        self._write_run({"state": str(totals["state"]), "finished_segments": list(nonces)})

    def close(self) -> None:
        """Close all files."""
        self._alerts.close()
        self._history.close()
        self._tensorboard.close()

    def _committed_alerts(self) -> list[Alert]:
        """Return the newest alerts that are committed, whether they are in their file or not."""
        alerts: list[Alert] = []
        for holder in (*self.newest_lines(), self._run):
            documents = holder.get("alerts")
            for document in documents if isinstance(documents, list) else ():
                try:
                    alerts.append(read_alert(document))
                except ObservationError as error:
                    logger.warning("%s: an alert is left out: %s", self.directory, error)
        return alerts

    def _write_events(self, scalars: Sequence[Scalar], texts: Sequence[Text]) -> None:
        if scalars or texts:
            wall_time = self._wall_clock()
            self._note_events(self._tensorboard.write_events(scalars, texts, wall_time=wall_time))

    def _note_events(self, commit: Commit) -> None:
        self._run[EVENTS_KEY] = {"file": commit.file_name, "end": commit.end_offset}

    def _write_run(self, changes: Mapping[str, object]) -> None:
        document = {**self._run, **plain_object(changes), "updated_at": self._wall_clock()}
        write_json(self.directory / RUN_FILE, document)
        self._run = document

    def _keep_what_was_brought(self) -> None:
        """Commit event files that lie where nothing was written yet: curves that shall go on."""
        commit = written_so_far(self.directory / TENSORBOARD_DIR)
        if commit is not None:
            self._note_events(commit)

    def _committed(self) -> dict[str, int]:
        """Return how far each event file was written, by history and ``run.json``."""
        committed = dict(self._history.committed)
        match self._run.get(EVENTS_KEY):
            case {"file": str(name), "end": int(end)}:
                committed[name] = max(end, committed.get(name, 0))
        return committed
