"""A curve is judged as the daemon would have judged it, step by step."""

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from training_logs import make_curve

from tracksided.convergence.course import Course, Point
from tracksided.convergence.verdict import MEMORY_POINTS, Verdict, judge, move_on
from tracksided.progress.curve import Series, TrainingCurve
from tracksided.progress.judgement import judge_curve


def step_by_step(curve: TrainingCurve) -> Verdict:
    columns = [
        dict(zip(series.steps.tolist(), series.values.tolist(), strict=True))
        for series in (curve.loss, curve.gradient_norm, curve.evaluation_loss)
    ]
    losses, norms, held_out = columns
    points: list[Point] = []
    course = Course()
    for step in sorted({step for column in columns for step in column}):
        point = Point(
            step=step,
            timestamp=0.0,
            epoch=None,
            loss=losses.get(step),
            learning_rate=None,
            gradient_norm=norms.get(step),
            clip_rate=None,
            evaluation=("eval_loss", held_out[step]) if step in held_out else None,
        )
        points = [*points, point][-MEMORY_POINTS:]
        course = move_on(course, points)
    return judge(points, course, ()) if points else Verdict()


@settings(max_examples=25)
@given(
    seed=st.integers(0, 1000),
    count=st.integers(0, 60),
    every_evaluation=st.integers(1, 20),
    share_of_nan=st.sampled_from([0.0, 0.2]),
)
def test_verdict_is_that_of_following_every_step(
    seed: int, count: int, every_evaluation: int, share_of_nan: float
) -> None:
    noise = random.Random(seed)
    steps = [10 * (i + 1) for i in range(count)]
    losses = [
        math.nan if noise.random() < share_of_nan else 2 + 5 / (i + 1) + noise.gauss(0, 0.2)
        for i in range(count)
    ]
    norms = [noise.lognormvariate(0, 1) for _ in steps]
    held_out = steps[::every_evaluation]
    curve = make_curve(
        loss=Series.of(steps, losses),
        gradient_norm=Series.of(steps, norms),
        evaluation={"eval_loss": Series.of(held_out, [noise.random() for _ in held_out])},
    )

    assert judge_curve(curve) == step_by_step(curve)


def test_share_of_clipped_steps_comes_from_the_limit_where_no_rate_is_known() -> None:
    steps = list(range(10, 210, 10))
    norms = Series.of(steps, [0.5, 2.0] * 10)

    by_limit = judge_curve(make_curve(gradient_norm=norms, max_gradient_norm=1.0))
    by_rate = judge_curve(
        make_curve(
            gradient_norm=norms, max_gradient_norm=1.0, clip_rate=Series.of(steps, [0.25] * 20)
        )
    )

    assert (by_limit.clip_rate, by_rate.clip_rate) == (0.5, 0.25)
    assert judge_curve(make_curve(gradient_norm=norms)).clip_rate is None


def test_curve_without_a_value_is_not_judged() -> None:
    assert judge_curve(make_curve()) == Verdict()


def test_evaluations_that_are_all_nan_say_nothing() -> None:
    loss = Series.of(range(1, 21), [1.0] * 20)
    broken = {"eval_loss": Series.of([10, 20], [math.nan, math.nan])}

    found = judge_curve(make_curve(loss=loss, evaluation=broken))

    assert found == judge_curve(make_curve(loss=loss))


@pytest.mark.parametrize(("last_rate", "said"), [(1e-4, "stop here"), (1e-3, "2 to 10 times less")])
def test_a_learning_rate_is_held_against_the_largest_one(last_rate: float, said: str) -> None:
    steps = range(1, 101)
    rates = [1e-3] * 60 + [last_rate] * 40

    found = judge_curve(
        make_curve(loss=Series.of(steps, [1.0] * 100), learning_rate=Series.of(steps, rates))
    )

    assert [said in line for line in found.advice] == [True]
