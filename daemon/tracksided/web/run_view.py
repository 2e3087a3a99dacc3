"""One run as somebody watches it on the page."""

import secrets
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tracksided.outputs import RUN_FILE
from tracksided.sinks.history import FILE_NAME
from tracksided.web.alert_log import AlertLog
from tracksided.web.curves import Curves
from tracksided.web.fields import as_it_is, objects, text
from tracksided.web.json_lines import Lines, LineTail, read_object
from tracksided.web.patience import Patient
from tracksided.web.pictures import OverviewPictures, is_step_folder, picture_names

MAX_UNSEEN = 64  # an overloaded daemon leaves pictures out; those of an older step still show
KEPT_AVERAGES = 50
OF_STEP = ("host", "monitoring")
OF_RUN = ("started_at", "hostname", "every")


@dataclass(frozen=True, slots=True)
class _Reading:
    history: Lines
    alerts: Lines
    run_file: Mapping[str, Any] | None
    folder: str | None
    pictures: tuple[str, ...]
    overview: tuple[tuple[str, str], ...]


class RunView:
    """Follows the files of one run."""

    def __init__(self, key: str, run: str, directory: Path) -> None:
        """Read nothing yet.

        Args:
            key: what addresses of the page call the run: unlike its name, each has one.
            run: its name.
            directory: its outputs.
        """
        self.key = key
        self.run = run
        self.directory = directory
        self.curves = Curves()
        self.serial = secrets.token_hex(4)
        """Another one where the curves began anew: what a browser has is then void."""

        self.folder: str | None = None
        """Of the newest step that has pictures."""

        self.pictures: tuple[str, ...] = ()
        self.overview: tuple[tuple[str, str], ...] = ()
        """Names and versions of the pictures of the whole run."""

        self.last_asked = 0.0
        """Monotonic seconds, for whoever holds it."""

        self.record: Mapping[str, Any] = {}
        """What is sent of ``run.json``."""

        self.newest: Mapping[str, Any] = {}
        """What is sent of the last line of ``history.jsonl``."""

        self.alerts = AlertLog(run, directory)
        self._history = LineTail(directory, FILE_NAME)
        self._overview = OverviewPictures(directory)
        self._unseen: deque[str] = deque(maxlen=MAX_UNSEEN)
        """Step folders in which no pictures were looked for yet, the newest last."""

        self._patient = Patient(self._read, self._apply)

    @property
    def is_cut(self) -> bool:
        """Whether the beginning of a long run was left out."""
        return self._history.is_cut

    @property
    def problem(self) -> str | None:
        """Why its files cannot be read."""
        return self._patient.problem

    def averages(self) -> list[Mapping[str, Any]]:
        """Return the newest averages of its checkpoints, the newest last."""
        return list(objects(self.record, "averages"))

    async def refresh(self) -> None:
        """Take in what is new."""
        await self._patient.refresh()

    def _read(self) -> _Reading:
        folder, pictures = self._newest_pictures()
        return _Reading(
            history=self._history.read(),
            alerts=self.alerts.read(),
            run_file=read_object(self.directory, RUN_FILE),
            folder=folder,
            pictures=pictures,
            overview=self._overview.read(),
        )

    def _newest_pictures(self) -> tuple[str | None, tuple[str, ...]]:
        for folder in reversed(tuple(self._unseen)):
            names = picture_names(self.directory, folder)
            if names:
                return folder, tuple(names)
        return self.folder, self.pictures

    def _apply(self, reading: _Reading) -> bool:
        if reading.history.is_new_file:
            self.curves = Curves()
            self.serial, self.newest = secrets.token_hex(4), {}
            self.folder, self.pictures = None, ()
        else:
            self.folder, self.pictures = reading.folder, reading.pictures
        self._unseen.clear()
        newest: Mapping[str, Any] | None = None
        for line in reading.history.objects:
            if line.get("run", self.run) == self.run:
                self.curves.add(line)
                self._note_folder(line)
                newest = line
        if newest is not None:
            self.newest = {name: as_it_is(newest.get(name)) for name in OF_STEP}
        self.alerts.apply(reading.alerts)
        if reading.run_file is not None and reading.run_file.get("run") == self.run:
            averages = objects(reading.run_file, "averages")[-KEPT_AVERAGES:]
            self.record = {
                **{name: as_it_is(reading.run_file.get(name)) for name in OF_RUN},
                "averages": [as_it_is(average) for average in averages],
            }
        self.overview = reading.overview
        return reading.history.has_more or reading.alerts.has_more or bool(self._unseen)

    def _note_folder(self, line: Mapping[str, Any]) -> None:
        folder = text(line, "folder")
        if folder is not None and is_step_folder(folder):
            self._unseen.append(folder)
