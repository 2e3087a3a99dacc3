"""Every rule copes with whatever comes, says all that an alert needs, and has its page."""

import json
import math
import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tracksided.alerts.catalog import AlertSettings
from tracksided.alerts.finding import Finding, HostRule, StepRule
from tracksided.config import parse_settings
from tracksided.errors import SettingsError
from tracksided.monitors.reading import GpuReading, HostReading, ProcessReading, XidError
from tracksided.observations import (
    AttentionObservation,
    Observation,
    RankObservation,
    observe,
)
from tracksided.sinks.json_file import encode

PAGE = (Path(__file__).parents[3] / "docs" / "alerts.md").read_text(encoding="utf-8")
STEP_RULES = AlertSettings().step_rules
HOST_RULES = AlertSettings().host_rules
RULES: tuple[Any, ...] = (*STEP_RULES, *HOST_RULES, *AlertSettings().event_rules)
each_host_rule = pytest.mark.parametrize("rule", HOST_RULES, ids=lambda rule: rule.name)
each_step_rule = pytest.mark.parametrize("rule", STEP_RULES, ids=lambda rule: rule.name)
each_rule = pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)

# Observations hold finite numbers, NaN and None only: `observe` sees to that.
KNOWN = st.just(math.nan) | st.floats(allow_nan=False, allow_infinity=False)
NUMBER = st.none() | KNOWN
RANK = st.builds(
    RankObservation,
    rank=st.integers(0, 3),
    loss=NUMBER,
    step_seconds=NUMBER,
    local_seconds=NUMBER,
    dropped=st.integers(0, 2**70),
    weight_checksum=st.none() | st.sampled_from(["a", "b", 3]),
)
CALL = st.builds(
    AttentionObservation,
    stack=st.sampled_from(["encoder", "decoder"]),
    type=st.just("self_attention"),
    layer=st.integers(0, 2),
    module=st.just("m"),
    normalized_entropy=NUMBER,
    max_logit=NUMBER,
)
OBSERVATION = st.builds(
    Observation,
    step=st.integers(0, 2**40),
    timestamp=st.floats(0, 2e9),
    loss=NUMBER,
    norm_before_clip=NUMBER,
    norm_after_clip=NUMBER,
    norm_peak=NUMBER,
    max_norm=NUMBER,
    clip_rate=NUMBER,
    step_seconds=NUMBER,
    amp_scale=NUMBER,
    ranks=st.lists(RANK, max_size=2).map(tuple),
    attention=st.lists(CALL, max_size=2).map(tuple),
    layer_norms=st.dictionaries(st.sampled_from("abcd"), KNOWN, max_size=4),
)

POSITIVE = st.none() | st.integers(0, 2**70)
GPU = st.builds(
    GpuReading,
    index=st.integers(0, 2),
    utilization_percent=NUMBER,
    temperature_c=NUMBER,
    slowdown_temperature_c=NUMBER,
    throttle_reasons=st.none() | st.just(("hw_thermal_slowdown",)),
    xid_errors=st.lists(st.builds(XidError, timestamp=st.floats(0, 2e9), code=st.integers())).map(
        tuple
    ),
)
PROCESS = st.builds(
    ProcessReading,
    rank=st.integers(0, 2),
    rss_bytes=POSITIVE,
    gpu_memory_bytes=POSITIVE,
    gpu_indices=st.none() | st.just((0, 1)),
)
READING = st.builds(
    HostReading,
    timestamp=st.floats(0, 2e9),
    memory_percent=NUMBER,
    memory_pressure_level=st.none() | st.integers(0, 3),
    gpus=st.lists(GPU, max_size=2).map(tuple),
    processes=st.dictionaries(st.integers(1, 3), PROCESS, max_size=2),
)


def check_finding(finding: Finding | None) -> None:
    if finding is None:
        return
    assert isinstance(finding, Finding)
    assert finding.severity in {"warning", "critical"}
    assert finding.message
    assert "\n" not in finding.message
    assert finding.advice.endswith(".")


@each_step_rule
@settings(max_examples=60)
@given(now=OBSERVATION, before=st.lists(OBSERVATION, max_size=4), repeat=st.integers(1, 128))
def test_rule_copes_with_any_history(
    rule: StepRule, now: Observation, before: list[Observation], repeat: int
) -> None:
    """Empty, one element, NaN, huge, gaps, missing ranks, steps in any order, long and constant."""
    check_finding(rule.check(now, tuple(before * repeat)[:512]))


@each_host_rule
@settings(max_examples=60)
@given(now=READING, before=st.lists(READING, max_size=3), repeat=st.integers(1, 64))
def test_rule_copes_with_any_machine(
    rule: HostRule, now: HostReading, before: list[HostReading], repeat: int
) -> None:
    check_finding(rule.check(now, tuple(before * repeat)))


@each_host_rule
@pytest.mark.parametrize("length", [0, 1, 512])
def test_rule_says_nothing_of_readings_that_tell_nothing(rule: HostRule, length: int) -> None:
    nothing = [HostReading(timestamp=float(n)) for n in range(length + 1)]

    assert rule.check(nothing[-1], tuple(nothing[:-1])) is None


@each_step_rule
@pytest.mark.parametrize("length", [0, 1, 512])
def test_rule_says_nothing_of_steps_that_tell_nothing(rule: StepRule, length: int) -> None:
    nothing = [Observation(step=n, timestamp=float(n)) for n in range(length + 1)]

    assert rule.check(nothing[-1], tuple(nothing[:-1])) is None


def lively(length: int, factor: float) -> list[Observation]:
    """A run that several rules have something to say of, in another unit of loss and norm."""
    steps = []
    for n in range(1, length + 1):
        burst = 40.0 if n % 97 > 90 else 1.0
        level = 3.0 if n > length // 2 else 1.0
        norm, loss = (2 + math.sin(n)) * burst, (5 + math.cos(n)) * level
        steps.append(
            Observation(
                step=n,
                timestamp=float(n),
                loss=factor * loss,
                norm_before_clip=factor * norm,
                norm_peak=factor * norm,
                clip_rate=1.0,
                max_norm=factor * 0.1,
                layer_norms={"a": factor, "b": factor * norm, "c": 0.0, "d": factor},
            )
        )
    return steps


@each_step_rule
@pytest.mark.parametrize("factor", [2.0**-20, 2.0**20])
def test_finding_does_not_depend_on_the_unit_of_loss_and_norm(
    rule: StepRule, factor: float
) -> None:
    if rule.name == "gradient_vanishing":
        rule = replace(rule, max_norm=5e-324)  # the one limit that is absolute, by its definition
    one, other = lively(480, 1.0), lively(480, factor)

    for end in range(1, 480, 3):
        first = rule.check(one[end], tuple(one[:end]))
        second = rule.check(other[end], tuple(other[:end]))
        assert (first and first.severity) == (second and second.severity)


@each_step_rule
def test_finding_is_the_same_before_and_after_a_line_is_written(rule: StepRule) -> None:
    lines = [
        {
            "step": entry.step,
            "timestamp": entry.timestamp,
            "loss": entry.loss,
            "norm_before_clip": entry.norm_before_clip,
            "layer_norms": dict(entry.layer_norms),
        }
        for entry in lively(300, 1.0)
    ]
    live = [observe(line) for line in lines]
    read = [observe(json.loads(encode(line))) for line in lines]

    assert rule.check(live[-1], tuple(live[:-1])) == rule.check(read[-1], tuple(read[:-1]))


@each_rule
def test_rule_has_its_table_in_the_settings(rule: Any) -> None:
    parsed = parse_settings([("file", {"alerts": {rule.name: {"enabled": False}}})])

    assert getattr(parsed.alerts, rule.name) == replace(rule, enabled=False)


@each_rule
def test_misspelled_setting_of_a_rule_names_the_nearest(rule: Any) -> None:
    with pytest.raises(SettingsError, match="unknown key 'enabeld'; did you mean 'enabled'"):
        parse_settings([("file", {"alerts": {rule.name: {"enabeld": False}}})])


@each_rule
def test_settings_that_cannot_work_are_refused_by_name(rule: Any) -> None:
    for item in fields(rule):
        value = getattr(rule, item.name)
        if not isinstance(value, bool):
            with pytest.raises(SettingsError, match=f"alerts.{rule.name}.{item.name} is"):
                parse_settings([("f", {"alerts": {rule.name: {item.name: type(value)(0)}}})])
        if item.name.endswith(("_steps", "_readings")):
            with pytest.raises(SettingsError, match="look back 512"):
                parse_settings([("f", {"alerts": {rule.name: {item.name: 513}}})])


@each_rule
def test_rule_has_its_heading_and_all_settings_with_their_defaults_in_the_docs(rule: Any) -> None:
    found = re.search(rf"^### {rule.name}\n(.*?)(?=^##|\Z)", PAGE, flags=re.MULTILINE | re.DOTALL)

    assert found is not None
    section = found[1]
    for item in fields(rule):
        value = getattr(rule, item.name)
        shown = str(value).lower() if isinstance(value, bool) else f"{value:g}"
        assert item.name == "enabled" or f"| `{item.name}` | {shown} |" in section


def test_every_rule_of_the_settings_is_asked() -> None:
    declared = {
        item.name
        for item in fields(AlertSettings)
        if hasattr(getattr(AlertSettings(), item.name), "enabled")
    }

    assert {rule.name for rule in RULES} == declared


def test_settings_of_two_files_are_merged_key_by_key() -> None:
    parsed = parse_settings(
        [
            ("system", {"alerts": {"straggler": {"min_score": 0.5, "persist_steps": 9}}}),
            ("user", {"alerts": {"straggler": {"min_score": 0.6}}}),
        ]
    )

    assert parsed.alerts.straggler.min_score == 0.6
    assert parsed.alerts.straggler.persist_steps == 9
