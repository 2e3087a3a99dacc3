"""One cause is one alert."""

from hypothesis import given
from hypothesis import strategies as st

from tracksided.alerts.desk import AlertDesk, Look, Phase
from tracksided.alerts.finding import Finding
from tracksided.reports import Alert, Severity

COOLDOWN_S = 60.0
CLEAR_AFTER = 3


def desk() -> AlertDesk:
    return AlertDesk(cooldown_s=COOLDOWN_S, clear_after=CLEAR_AFTER)


def finding(severity: Severity = "warning", rank: int | None = None) -> Finding:
    return Finding(severity=severity, value=1.0, threshold=0.5, message="m", advice="a", rank=rank)


def take(
    at: AlertDesk, now: float, severity: Severity | None, *, rank: int | None = None
) -> Alert | None:
    found = None if severity is None else finding(severity, rank)
    return at.take("rule", found, Look(run="run", step=int(now), timestamp=now))


def phases(at: AlertDesk) -> list[Phase]:
    return [standing.phase for standing in at.active]


def test_finding_that_stays_is_one_alert() -> None:
    at = desk()

    alerts = [take(at, float(now), "warning") for now in range(1000)]

    assert [alert is not None for alert in alerts] == [True] + [False] * 999


def test_alert_carries_what_the_rule_said_and_where() -> None:
    alert = take(desk(), 7.0, "critical", rank=2)

    assert alert == Alert(
        rule="rule",
        severity="critical",
        run="run",
        step=7,
        rank=2,
        value=1.0,
        threshold=0.5,
        message="m",
        advice="a",
        timestamp=7.0,
    )
    assert alert.id == "rule/7/2/7.000000"


def test_worse_finding_is_another_alert_and_a_milder_one_is_not() -> None:
    at = desk()

    severities: list[Severity] = ["warning", "critical", "warning", "critical"]
    alerts = [take(at, float(now), severity) for now, severity in enumerate(severities)]

    assert [alert is not None for alert in alerts] == [True, True, False, False]


def test_finding_that_comes_back_while_it_cools_is_the_same_cause() -> None:
    at = desk()
    take(at, 0.0, "warning")
    take(at, 100.0, None)
    assert phases(at) == [Phase.COOLING]

    assert take(at, 101.0, "warning") is None
    assert phases(at) == [Phase.RAISED]


def test_quiet_needs_both_clean_looks_and_time() -> None:
    many_looks, long_time = desk(), desk()
    take(many_looks, 0.0, "warning")
    take(long_time, 0.0, "warning")

    for now in range(1, 60):
        take(many_looks, float(now), None)
    for now in (1000.0, 2000.0):
        take(long_time, now, None)

    assert phases(many_looks) == [Phase.COOLING]
    assert phases(long_time) == [Phase.COOLING]
    take(many_looks, 60.0, None)
    take(long_time, 3000.0, None)
    assert phases(many_looks) == phases(long_time) == []
    assert take(long_time, 3001.0, "warning") is not None


def test_finding_that_stays_is_one_alert_without_any_cool_down() -> None:
    at = AlertDesk(cooldown_s=0.0, clear_after=1)

    alerts = [take(at, float(now), "warning") for now in range(5)]

    assert [alert is not None for alert in alerts] == [True, False, False, False, False]


def test_clean_looks_count_from_the_last_finding_on() -> None:
    at = AlertDesk(cooldown_s=0.0, clear_after=2)
    looks: list[Severity | None] = ["warning", None, "warning", None, "warning", None, None]

    alerts = [take(at, float(now), look) for now, look in enumerate(looks)]

    assert [alert is not None for alert in alerts] == [True] + [False] * 6
    assert phases(at) == []


def test_time_counts_from_the_last_finding_on() -> None:
    at = AlertDesk(cooldown_s=100.0, clear_after=1)
    take(at, 0.0, "warning")
    take(at, 90.0, "warning")

    take(at, 189.0, None)
    assert phases(at) == [Phase.COOLING]

    take(at, 190.0, None)
    assert phases(at) == []


def test_what_got_worse_is_the_newest() -> None:
    at = desk()
    take(at, 1.0, "warning", rank=0)
    take(at, 2.0, "warning", rank=1)

    take(at, 3.0, "critical", rank=0)

    assert [standing.alert.rank for standing in at.active] == [1, 0]


def test_each_rank_is_a_cause_of_its_own() -> None:
    at = desk()

    assert take(at, 1.0, "warning", rank=1) is not None
    assert take(at, 2.0, "warning", rank=2) is not None
    assert take(at, 3.0, "warning", rank=1) is None
    assert phases(at) == [Phase.RAISED, Phase.COOLING]


def test_alert_that_was_raised_before_a_restart_is_not_raised_again() -> None:
    alert = take(desk(), 5.0, "warning")
    assert alert is not None
    again = desk()
    again.restore([alert])

    assert take(again, 6.0, "warning") is None
    assert take(again, 7.0, "critical") is not None


def test_clock_that_goes_back_does_not_keep_a_rule_raised_for_good() -> None:
    at = desk()
    take(at, 1_000_000.0, "warning")

    for now in (10.0, 20.0, 71.0):
        take(at, now, None)

    assert phases(at) == []


@given(st.lists(st.tuples(st.floats(0, 30), st.sampled_from([None, "warning", "critical"]))))
def test_two_alerts_of_one_severity_are_a_cool_down_apart(
    looks: list[tuple[float, Severity | None]],
) -> None:
    at = desk()
    now, raised = 0.0, dict[str, float]()
    for wait, severity in looks:
        now += wait
        alert = take(at, now, severity)
        if alert is not None:
            last = raised.get(alert.severity)
            assert last is None or now - last >= COOLDOWN_S
            raised[alert.severity] = now
