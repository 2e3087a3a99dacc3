"""When the rules of a run are asked, and where its alerts go."""

import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from fake_trainer import RUN
from observed import make_report
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from written import load

from tracksided import outputs
from tracksided.alerting import RunAlerting
from tracksided.alerts.catalog import AlertSettings
from tracksided.alerts.memory_pressure import MemoryPressure
from tracksided.alerts.nonfinite import Nonfinite
from tracksided.errors import OutputError
from tracksided.monitors.reading import HostReading
from tracksided.outputs import RunOutputs
from tracksided.reports import Alert
from tracksided.rule_evaluator import RuleEvaluator


@dataclass
class Site:
    """A run's alerting over a real directory; time stands where the test puts it."""

    directory: Path
    wall: float = 1e9
    told: list[Alert] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.settings = AlertSettings(memory_pressure=MemoryPressure(persist_readings=1))
        self.start()

    def start(self, started_at: float = 0.0) -> None:
        """Begin as a daemon does that knows the files only."""
        self.outputs = RunOutputs(self.directory, time.time)
        evaluator = RuleEvaluator(
            RUN,
            self.settings,
            lines=self.outputs.newest_lines(),
            alerts=self.outputs.alerts,
            started_at=started_at,
        )
        self.alerting = RunAlerting(evaluator, self.outputs, self.told.append, lambda: self.wall)

    def restart(self, started_at: float = 0.0) -> None:
        self.outputs.close()
        self.start(started_at)

    def step(self, step: int, **changes: Any) -> None:
        report = self.alerting.complete(make_report(step, **changes), None)
        self.outputs.commit(report, {0: ("n", step)})
        self.alerting.committed(step)

    def rules(self) -> list[str]:
        path = self.directory / "alerts.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [json.loads(line)["rule"] for line in lines]

    def texts(self) -> list[str]:
        self.outputs.close()
        return [
            value.tag.removeprefix("Alerts/").removesuffix("/text_summary")
            for path in sorted((self.directory / "tensorboard").iterdir())
            for event in EventFileLoader(str(path)).Load()
            for value in event.summary.value
            if value.tag.startswith("Alerts/")
        ]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    yield site
    site.outputs.close()


def pressed(now: float) -> HostReading:
    return HostReading(timestamp=now, memory_pressure_level=2)


def test_alert_of_a_step_is_told_once_it_is_committed(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    report = site.alerting.complete(make_report(5, loss=math.nan), None)
    assert site.told == []

    site.outputs.commit(report, {0: ("n", 5)})
    site.alerting.committed(5)

    assert [alert.rule for alert in site.told] == ["nonfinite"]
    assert caplog.text.count("nonfinite: the loss is NaN") == 1
    assert site.rules() == site.texts() == ["nonfinite"]


def test_alert_of_the_machine_goes_to_every_place(site: Site) -> None:
    site.step(5)
    site.alerting.look_at_machine(pressed(100.0))
    site.alerting.look_at_machine(pressed(100.0))
    site.alerting.look_at_machine(pressed(110.0))

    assert [(alert.rule, alert.step) for alert in site.told] == [("memory_pressure", None)]
    assert site.alerting.status()[0]["rule"] == "memory_pressure"
    assert site.rules() == site.texts() == ["memory_pressure"]


def test_alert_of_the_machine_is_not_raised_again_after_a_restart(site: Site) -> None:
    site.alerting.look_at_machine(pressed(100.0))
    site.restart()

    site.alerting.look_at_machine(pressed(110.0))

    assert site.rules() == site.texts() == ["memory_pressure"]


def test_alert_of_the_machine_that_a_kill_kept_from_its_file_is_added_once(site: Site) -> None:
    site.alerting.look_at_machine(pressed(100.0))
    (site.directory / "alerts.jsonl").unlink()

    site.restart()
    site.restart()

    assert site.rules() == site.texts() == ["memory_pressure"]
    assert load(site.directory / "run.json")["alerts"][0]["rule"] == "memory_pressure"


def look(site: Site, step: int, now: float, *, is_training: bool = True) -> None:
    site.wall = 1e9 + now
    site.alerting.look_at_trainer(step, now, lambda: is_training)


def test_silent_trainer_is_stalled_once_until_it_moves_again(site: Site) -> None:
    """make_step puts samples a second apart: a stall is 60 s of silence."""
    for step in range(1, 6):
        site.step(step)
    for now in range(61):
        look(site, 5, float(now))
    assert site.told == []

    for now in range(61, 100):
        look(site, 5, float(now))
    assert [alert.rule for alert in site.told] == ["stalled_trainer"]
    assert site.told[0].value == 61.0

    for now in range(100, 1000, 20):
        look(site, now, float(now))
    assert site.alerting.status() == []


@pytest.mark.parametrize("why", ["ended", "daemon stopped"])
def test_silence_that_is_no_stall(site: Site, why: str) -> None:
    for step in range(1, 6):
        site.step(step)
    times = [float(now) for now in range(200)] if why == "ended" else [0.0, 1000.0, 1001.0]
    for now in times:
        look(site, 5, now, is_training=why != "ended")

    assert site.told == []


def test_trainer_that_begins_anew_has_no_usual_pace_yet(site: Site) -> None:
    """It loads a checkpoint, skips batches, compiles: as long as that takes."""
    for step in range(1, 6):
        site.step(step, timestamp=1e9 + step)
    site.restart(started_at=1e9 + 6)

    for now in range(200):
        look(site, 0, float(now))
    assert site.told == []
    for step in range(6, 11):
        site.step(step, timestamp=1e9 + 200 + step)
    for now in range(200, 300):
        look(site, 10, float(now))

    assert [alert.rule for alert in site.told] == ["stalled_trainer"]


def test_pauses_of_one_length_are_a_stall_once(site: Site) -> None:
    """An evaluation of 300 s after every 5 samples, which are a second apart."""
    moment = 0
    for step in range(1, 31):
        pause = 300 if step > 1 and step % 5 == 1 else 1
        for now in range(moment, moment + pause):
            look(site, step - 1, float(now))
        moment += pause
        site.step(step, timestamp=1e9 + moment)

    assert [alert.rule for alert in site.told] == ["stalled_trainer"]


def test_failed_averaging_is_told_once_until_one_goes_well(site: Site) -> None:
    site.alerting.note_average("a.pt is truncated")
    site.wall += 1
    site.alerting.note_average("a.pt is truncated")

    assert [alert.rule for alert in site.told] == ["averaging_failed"]
    site.wall += 301
    site.alerting.note_average(None)
    assert site.alerting.status() == []


def test_alert_that_cannot_be_written_is_written_later_and_once(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(path: Path, document: object) -> None:
        raise OutputError(f"no space for {path.name}, {document is None}")

    with monkeypatch.context() as patch:
        patch.setattr(outputs, "write_json", refuse)
        site.alerting.look_at_machine(pressed(100.0))
        site.alerting.look_at_machine(pressed(110.0))
    assert site.told == []
    assert caplog.text.count("no space for run.json") == 1

    look(site, 5, 2.0)

    assert [alert.rule for alert in site.told] == ["memory_pressure"]
    assert site.rules() == site.texts() == ["memory_pressure"]


def test_other_settings_hold_from_the_next_look_on(site: Site) -> None:
    site.alerting.evaluator.configure(AlertSettings(nonfinite=Nonfinite(enabled=False)))
    site.step(5, loss=math.nan)
    assert site.told == []

    site.alerting.evaluator.configure(AlertSettings())
    site.step(6, loss=math.nan)
    assert [alert.step for alert in site.told] == [6]
