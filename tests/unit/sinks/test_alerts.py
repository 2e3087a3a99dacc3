"""alerts.jsonl: every alert once, whatever is killed when."""

import json
import math
import time
from pathlib import Path
from typing import Any

import pytest
from fake_trainer import RUN
from observed import make_report
from written import history

from tracksided.alerts.catalog import AlertSettings
from tracksided.errors import OutputError
from tracksided.outputs import RunOutputs
from tracksided.reports import StepReport
from tracksided.rule_evaluator import RuleEvaluator
from tracksided.sinks.line_file import LineFile

RECORDS = {0: ("n", 1)}


def alerts_in(directory: Path) -> list[Any]:
    return [json.loads(line) for line in (directory / "alerts.jsonl").read_text().splitlines()]


def bad_step(step: int) -> StepReport:
    return RuleEvaluator(RUN, AlertSettings()).complete(make_report(step, loss=math.nan), None)


def test_committed_step_leaves_its_alert(tmp_path: Path) -> None:
    report = bad_step(5)
    outputs = RunOutputs(tmp_path, time.time)

    outputs.commit(report, RECORDS)

    outputs.close()
    assert alerts_in(tmp_path) == history(tmp_path)[0]["alerts"]
    assert alerts_in(tmp_path)[0]["id"] == report.alerts[0].id


def test_file_is_there_before_the_first_alert(tmp_path: Path) -> None:
    outputs = RunOutputs(tmp_path, time.time)

    assert (tmp_path / "alerts.jsonl").read_bytes() == b""

    outputs.commit(make_report(5), RECORDS)
    outputs.close()
    assert (tmp_path / "alerts.jsonl").read_bytes() == b""


@pytest.mark.parametrize("left", [0, 1, 40, None])
def test_alert_that_a_kill_kept_from_its_file_is_added_once(
    tmp_path: Path, left: int | None
) -> None:
    """``left`` bytes of its line had reached the file; None: all of them."""
    report = bad_step(5)
    outputs = RunOutputs(tmp_path, time.time)
    outputs.commit(report, RECORDS)
    outputs.close()
    path = tmp_path / "alerts.jsonl"
    path.write_bytes(path.read_bytes()[:left])

    for _ in range(2):
        again = RunOutputs(tmp_path, time.time)
        assert [alert.id for alert in again.alerts] == [report.alerts[0].id]
        again.close()

    assert [alert["id"] for alert in alerts_in(tmp_path)] == [report.alerts[0].id]


def test_alert_that_cannot_be_written_does_not_hold_up_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    outputs = RunOutputs(tmp_path, time.time)
    append = LineFile.append

    def refuse(file: LineFile, encoded: bytes) -> None:
        if file.path.name == "alerts.jsonl":
            raise OutputError("no space")
        append(file, encoded)

    with monkeypatch.context() as patch:
        patch.setattr(LineFile, "append", refuse)
        outputs.commit(bad_step(5), RECORDS)
        outputs.commit(bad_step(6), RECORDS)
    assert caplog.text.count("no space") == 1
    assert len(history(tmp_path)) == 2

    outputs.commit(make_report(7), RECORDS)

    outputs.close()
    assert [alert["step"] for alert in alerts_in(tmp_path)] == [5, 6]
