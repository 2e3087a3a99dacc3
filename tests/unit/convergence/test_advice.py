"""Hints for what to try next."""

from dataclasses import replace
from typing import Any

import pytest

from tracksided.convergence.advice import advise, generalisation_loss_percent
from tracksided.convergence.course import Best, Evaluation
from tracksided.convergence.loss import TREND_POINTS, LossTrend

FLAT = LossTrend(
    slope=0.0,
    level=3.0,
    middle_step=50.0,
    relative_change=0.001,
    direction="flat",
    noise=0.01,
    num_points=TREND_POINTS,
    since_step=1,
)
BEST = Best(step=40, value=2.5)
HELD_OUT = Evaluation(name="eval_loss", last=2.0, best=Best(step=7, value=2.0), num_since=0)


def hints(**facts: Any) -> tuple[str, ...]:
    unknown = dict.fromkeys(
        ("trend", "score", "health", "clip_rate", "learning_rate_share", "best", "evaluation")
    )
    return advise(**(unknown | facts))


def test_nothing_is_said_of_what_is_unknown_or_well() -> None:
    assert hints() == ()
    assert hints(health="healthy", clip_rate=0.5, evaluation=HELD_OUT) == ()


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"health": "exploding"}, ("exploding", "learning rate")),
        ({"health": "volatile"}, ("volatile", "batch size")),
        ({"health": "vanishing"}, ("vanishing", "loss scale")),
        ({"clip_rate": 0.51}, ("51%", "clip")),
        (
            {
                "trend": replace(FLAT, direction="rising", relative_change=0.2),
                "best": BEST,
            },
            ("rises by 20.0%", "2.5 at step 40"),
        ),
        ({"trend": FLAT, "learning_rate_share": 1.0}, ("flat", "schedule")),
        ({"trend": FLAT, "learning_rate_share": 0.1}, ("flat", "stop here")),
        ({"trend": FLAT}, ("flat", "stop here")),
        (
            {
                "trend": replace(FLAT, direction="falling", relative_change=-0.1),
                "score": 0.49,
            },
            ("still falls by 10.0%", "longer"),
        ),
        (
            {"evaluation": replace(HELD_OUT, last=2.2, num_since=1)},
            ("Stop early", "10.0 %", "step 7"),
        ),
        (
            {"evaluation": replace(HELD_OUT, last=2.01, num_since=3)},
            ("has not improved in 3", "step 7"),
        ),
    ],
)
def test_each_finding_has_its_hint(facts: dict[str, Any], words: tuple[str, ...]) -> None:
    (hint,) = hints(**facts)

    assert all(word in hint for word in words)


@pytest.mark.parametrize(
    "facts",
    [
        {"trend": replace(FLAT, num_points=TREND_POINTS - 1)},
        {"trend": replace(FLAT, direction="rising", relative_change=0.04)},
        {"trend": replace(FLAT, direction="falling", relative_change=-0.1), "score": 0.5},
        {"evaluation": replace(HELD_OUT, last=2.05, num_since=2)},
    ],
)
def test_what_is_not_clear_is_not_said(facts: dict[str, Any]) -> None:
    assert hints(**facts) == ()


def test_gradients_come_first() -> None:
    found = hints(trend=FLAT, health="volatile", clip_rate=0.9)

    assert [hint.split()[0] for hint in found] == ["Gradients", "Clip", "The"]


def test_the_generalisation_loss_of_prechelt() -> None:
    assert generalisation_loss_percent(replace(HELD_OUT, last=2.5)) == pytest.approx(25.0)
    assert generalisation_loss_percent(replace(HELD_OUT, best=Best(step=1, value=0.0))) is None
