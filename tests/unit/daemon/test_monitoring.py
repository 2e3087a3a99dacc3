"""What the steps of a run say together, in its lines and in TensorBoard."""

import json
import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from fake_trainer import make_hello, make_step
from observed import make_report

from trackside.wire.records import LoggedScalar
from tracksided.assemble import RankStep, assemble
from tracksided.monitoring import Monitoring
from tracksided.reports import StepReport
from tracksided.sinks.json_file import encode


def line_of(report: StepReport) -> dict[str, Any]:
    return dict(json.loads(encode(report.history)))


def tags(report: StepReport) -> dict[str, float]:
    return {scalar.tag: scalar.value for scalar in report.scalars}


def training(count: int, first: int = 1) -> list[StepReport]:
    """Steps of a loss that falls by a power law, with noise, epochs and an evaluation."""
    noise = random.Random(5)
    return [
        make_report(
            10 * i,
            loss=2 + 8 / math.sqrt(i) + noise.gauss(0, 0.01),
            norm_before_clip=noise.lognormvariate(0, 0.3),
            epoch=i // 40,
            scalars=(LoggedScalar(step=10 * i, name="eval_loss", value=3 - i / 100),)
            if i % 10 == 0
            else (),
        )
        for i in range(first, first + count)
    ]


def test_few_steps_say_nothing_yet() -> None:
    report = Monitoring().add(make_report(10))

    assert line_of(report)["monitoring"]["convergence_score"] is None
    assert line_of(report)["monitoring"]["loss_trend"] is None
    assert line_of(report)["monitoring"]["gradient_health"] is None
    assert not [tag for tag in tags(report) if tag.startswith(("Monitoring/C", "Monitoring/L"))]


def test_line_and_tensorboard_say_the_same() -> None:
    monitoring = Monitoring()
    for report in training(200):
        last = monitoring.add(report)

    found = line_of(last)["monitoring"]
    # The loss above its floor is 8 (i / 1)^-0.5: see the closed form of the score.
    ratio = (200 - 31.5) / 3
    assert found["convergence_score"] == pytest.approx(1 - 0.5 / (math.sqrt(ratio) - 1), abs=0.05)
    assert found["loss_direction"] == "falling"
    assert found["gradient_health"] == "healthy"
    assert found["stagnant"] is False
    assert tags(last)["Monitoring/Convergence_Score"] == found["convergence_score"]
    assert tags(last)["Monitoring/Loss_Trend"] == found["loss_trend"]


def test_an_epoch_ends_with_the_first_step_of_the_next() -> None:
    monitoring = Monitoring()
    reports = training(41)
    completed = [monitoring.add(report) for report in reports]

    assert not any(tag.startswith("Epoch/") for report in completed[:39] for tag in tags(report))
    losses = [report.history["loss"] for report in reports[:39]]
    epoch = {scalar.tag: scalar for scalar in completed[39].scalars if "Epoch/" in scalar.tag}
    assert epoch["Epoch/Loss"].value == pytest.approx(sum(losses) / 39)
    assert epoch["Epoch/Loss_Min"].value == min(losses)
    assert epoch["Epoch/Sampled_Steps"].value == 39
    assert {scalar.step for tag, scalar in epoch.items() if tag != "Training/Epoch"} == {390}
    (text,) = [text for text in completed[39].texts if text.tag == "Training/Epoch_Summary"]
    assert "| Sampled steps | 39, 10 to 390 |" in text.text
    assert "| Against the epoch before | unknown |" in text.text


@pytest.mark.parametrize("cut", [1, 3, 12, 39, 40, 45, 90])
def test_a_restart_changes_nothing(cut: int) -> None:
    reports = training(100)
    through = Monitoring()
    expected = [line_of(through.add(report)) for report in reports]

    before = Monitoring()
    lines = [line_of(before.add(report)) for report in reports[:cut]]
    after = Monitoring(lines)
    lines += [line_of(after.add(report)) for report in reports[cut:]]

    assert lines == expected


def test_what_lies_behind_the_memory_is_carried_in_the_line() -> None:
    reports = training(330)
    through = Monitoring()
    lines = [line_of(through.add(report)) for report in reports]

    after = Monitoring(lines[-260:])

    assert after.course == through.course
    assert after.course.reference is not None
    assert after.course.reference.step == 30
    assert after.verdict == through.verdict


def test_training_that_goes_back_forgets_what_lay_ahead() -> None:
    reports = training(60)
    straight, back = Monitoring(), Monitoring()
    expected = [line_of(straight.add(report)) for report in reports]
    for report in reports[:50]:
        back.add(report)

    again = [line_of(back.add(report)) for report in reports[20:]]

    assert again == expected[20:]


@pytest.mark.parametrize(
    "damage",
    [
        {},
        {"monitoring": None},
        {"monitoring": {"course": {"best": 5}}},
        {"step": "x"},
        {"logged": 3, "epoch": "one"},
    ],
)
def test_a_line_of_another_making_is_followed_as_far_as_it_goes(damage: dict[str, Any]) -> None:
    monitoring = Monitoring()
    lines = [line_of(monitoring.add(report)) for report in training(30)]
    lines[-1] = {key: value for key, value in lines[-1].items() if key != "monitoring"} | damage

    report = Monitoring(lines).add(training(1, first=31)[0])

    assert line_of(report)["monitoring"]["course"]["reference"]["step"] == 30


def ranks(seconds: Sequence[float], checksums: Sequence[str | None]) -> StepReport:
    hellos = [make_hello(Path("/out"), rank=rank, world_size=3) for rank in range(3)]
    return assemble(
        [
            RankStep(hello, make_step(10, step_seconds=own), weight_checksum=checksum)
            for hello, own, checksum in zip(hellos, seconds, checksums, strict=True)
        ],
        None,
    )


def test_ranks_are_compared() -> None:
    report = Monitoring().add(ranks([1.0, 1.0, 2.0], ["a", "a", "b"]))

    found = line_of(report)["monitoring"]
    assert (found["straggler_rank"], found["straggler_score"]) == (2, 0.5)
    assert tags(report)["Monitoring/Straggler_Score"] == 0.5
    assert tags(report)["Monitoring/Step_Time_Skew"] == 1.0
    assert tags(report)["Monitoring/Distinct_Weights"] == 2.0
