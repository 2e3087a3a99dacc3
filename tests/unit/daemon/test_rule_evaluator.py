"""What the daemon's own process adds to a step."""

import json
import math
from collections.abc import Sequence
from typing import Any

import pytest
from fake_trainer import RUN
from hypothesis import given, settings
from hypothesis import strategies as st
from observed import make_report

from tracksided.alerts.catalog import AlertSettings
from tracksided.alerts.finding import Finding
from tracksided.alerts.nonfinite import Nonfinite
from tracksided.observations import Observation
from tracksided.reports import Alert, StepReport
from tracksided.rule_evaluator import RuleEvaluator
from tracksided.sinks.json_file import encode


def complete(evaluator: RuleEvaluator, step: int, **changes: Any) -> StepReport:
    return evaluator.complete(make_report(step, **changes), None)


def line_of(report: StepReport) -> Any:
    return json.loads(encode(report.history))


def test_step_carries_its_alerts_in_line_and_text() -> None:
    report = complete(RuleEvaluator(RUN, AlertSettings()), 7, loss=math.nan)

    (alert,) = report.alerts
    assert (alert.rule, alert.step, alert.run) == ("nonfinite", 7, RUN)
    assert alert.timestamp == report.history["timestamp"]
    (document,) = line_of(report)["alerts"]
    assert document["id"] == alert.id
    assert document["value"] is None  # NaN has no place in JSON
    (text,) = report.texts
    assert text.tag == "Alerts/nonfinite"
    assert text.step == 7
    assert alert.message in text.text
    assert alert.advice in text.text


def test_healthy_step_has_an_empty_list_of_alerts() -> None:
    report = complete(RuleEvaluator(RUN, AlertSettings()), 7)

    assert report.alerts == ()
    assert report.history["alerts"] == []


@pytest.mark.parametrize(
    "settings", [AlertSettings(enabled=False), AlertSettings(nonfinite=Nonfinite(enabled=False))]
)
def test_rule_that_is_switched_off_says_nothing(settings: AlertSettings) -> None:
    assert complete(RuleEvaluator(RUN, settings), 7, loss=math.nan).alerts == ()


def test_status_shows_what_is_active() -> None:
    evaluator = RuleEvaluator(RUN, AlertSettings())
    complete(evaluator, 7, loss=math.nan)
    complete(evaluator, 8)

    (entry,) = evaluator.status()

    assert (entry["rule"], entry["step"], entry["state"]) == ("nonfinite", 7, "cooling")


def test_training_that_goes_back_and_fails_again_is_another_alert() -> None:
    evaluator = RuleEvaluator(RUN, AlertSettings())
    complete(evaluator, 10)
    assert complete(evaluator, 20, loss=math.nan).alerts

    assert complete(evaluator, 10).alerts == ()
    assert complete(evaluator, 20, loss=math.nan).alerts


def test_alert_of_another_run_in_the_directory_does_not_silence_this_one() -> None:
    first = complete(RuleEvaluator("other", AlertSettings()), 7, loss=math.nan)

    evaluator = RuleEvaluator(RUN, AlertSettings(), lines=[line_of(first)], alerts=first.alerts)

    assert complete(evaluator, 8, loss=math.nan).alerts


class Broken(Nonfinite):
    def check(self, now: Observation, before: Sequence[Observation]) -> Finding | None:
        raise ZeroDivisionError(f"{now.step} / {len(before) - len(before)}")


def test_rule_that_fails_costs_itself_only(caplog: pytest.LogCaptureFixture) -> None:
    evaluator = RuleEvaluator(RUN, AlertSettings(nonfinite=Broken()))

    reports = [complete(evaluator, step) for step in (1, 2)]

    assert [report.history["failures"] for report in reports] == [
        {"alerts.nonfinite": f"ZeroDivisionError: {step} / 0"} for step in (1, 2)
    ]
    assert caplog.text.count("alert rule nonfinite fails") == 1


def test_step_that_says_no_time_costs_its_alerts_only() -> None:
    evaluator = RuleEvaluator(RUN, AlertSettings())

    report = complete(evaluator, 7, timestamp=math.inf)

    assert report.alerts == ()
    assert report.history["loss"] == 10.0 / 7
    assert report.history["failures"] == {"watch": "timestamp is missing or not finite"}
    assert complete(evaluator, 8, loss=math.nan).alerts


@settings(max_examples=40)
@given(
    bad=st.lists(st.booleans(), min_size=1, max_size=40),
    cut=st.integers(0, 40),
    seconds=st.sampled_from([1.0, 100.0]),
)
def test_restart_at_any_step_raises_the_same_alerts(
    bad: list[bool], cut: int, seconds: float
) -> None:
    """Each daemon knows the lines that were committed and the alerts in them."""

    def report(step: int) -> StepReport:
        loss = math.nan if bad[step - 1] else 1.0
        return make_report(step, loss=loss, timestamp=1e9 + seconds * step)

    steps = range(1, len(bad) + 1)
    straight = RuleEvaluator(RUN, AlertSettings())
    expected = [straight.complete(report(step), None).alerts for step in steps]

    first = RuleEvaluator(RUN, AlertSettings())
    before = [first.complete(report(step), None) for step in steps if step <= cut]
    known: list[Alert] = [alert for entry in before for alert in entry.alerts]
    second = RuleEvaluator(RUN, AlertSettings(), lines=map(line_of, before), alerts=known)
    after = [second.complete(report(step), None) for step in steps if step > cut]

    ids = [[alert.id for alert in entry.alerts] for entry in (*before, *after)]
    assert ids == [[alert.id for alert in alerts] for alerts in expected]
