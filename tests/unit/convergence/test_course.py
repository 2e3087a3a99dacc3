"""What a run has been through, against the whole list of its steps."""

import json
import math
import statistics
from dataclasses import asdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trackside.wire.plain import from_plain
from tracksided.convergence.course import Course, Epoch, Point, Tally, find_evaluation, follow
from tracksided.convergence.verdict import move_on

values = st.none() | st.floats(-1e3, 1e3) | st.just(math.nan)


def make_point(
    step: int, loss: float | None = None, epoch: int | None = None, **changes: object
) -> Point:
    fields: dict[str, object] = {
        "learning_rate": None,
        "gradient_norm": None,
        "clip_rate": None,
        **changes,
    }
    return Point(step=step, timestamp=100.0 + step, epoch=epoch, loss=loss, **fields)  # type: ignore[arg-type]  # keywords of a test


def walk(points: list[Point]) -> Course:
    course = Course()
    for end in range(1, len(points) + 1):
        course = move_on(course, points[:end])
    return course


@given(st.lists(values, max_size=30))
def test_a_tally_is_that_of_all_known_values(added: list[float | None]) -> None:
    known = [value for value in added if value is not None and math.isfinite(value)]
    tally = Tally()
    for value in added:
        tally = tally.add(value)

    assert tally.count == len(known)
    if known:
        assert tally.mean == pytest.approx(statistics.fmean(known), abs=1e-9)
        assert (tally.minimum, tally.last) == (min(known), known[-1])
    else:
        assert tally == Tally()


@given(st.lists(values, min_size=1, max_size=30))
def test_the_best_loss_is_the_first_of_the_lowest(losses: list[float | None]) -> None:
    course = walk([make_point(step, loss) for step, loss in enumerate(losses, start=1)])

    known = [value for value in losses if value is not None and math.isfinite(value)]
    if known:
        assert course.best is not None
        assert course.best.value == min(known)
        assert course.best.step == losses.index(min(known)) + 1
    else:
        assert course.best is None


def test_an_epoch_is_told_apart_from_the_one_before() -> None:
    points = [
        make_point(10, 4.0, epoch=0, clip_rate=0.5),
        make_point(20, 2.0, epoch=0),
        make_point(30, 1.0, epoch=1, gradient_norm=3.0, learning_rate=0.1),
        make_point(40, math.nan, epoch=1, gradient_norm=5.0, learning_rate=0.01),
        make_point(50, None, epoch=None),
    ]

    course = walk(points)

    assert course.epoch == Epoch(
        epoch=1,
        first_step=30,
        last_step=40,
        started_at=130.0,
        ended_at=140.0,
        num_samples=2,
        loss=Tally(count=1, mean=1.0, minimum=1.0, last=1.0),
        gradient_norm=Tally(count=2, mean=4.0, minimum=3.0, last=5.0),
        learning_rate=Tally(count=2, mean=0.055, minimum=0.01, last=0.01),
        clip_rate=Tally(),
    )
    assert course.epoch_before is not None
    assert (course.epoch_before.epoch, course.epoch_before.loss.mean) == (0, 3.0)
    assert course.epoch_before.clip_rate.mean == 0.5


def test_evaluations_are_counted_since_the_best() -> None:
    held_out = [("eval_loss", value) for value in (3.0, 2.0, 2.5, math.nan, 2.1)]
    points = [make_point(i, evaluation=entry) for i, entry in enumerate(held_out, start=1)]

    evaluation = walk([*points, make_point(6)]).evaluation

    assert evaluation is not None
    assert (evaluation.best.value, evaluation.best.step) == (2.0, 2)
    assert (evaluation.last, evaluation.num_since) == (2.1, 2)


def test_the_reference_is_set_once() -> None:
    points = [make_point(step, 10.0 - step) for step in range(1, 20)]

    reference = walk(points).reference

    assert reference is not None
    assert (reference.step, reference.loss) == (3.0, 7.0)  # medians of the first five


@pytest.mark.parametrize(
    ("logged", "expected"),
    [
        ({}, None),
        ({"accuracy": 1.0, "loss": 2.0}, None),
        ({"val_loss": 2.0, "eval_loss": 3.0}, ("eval_loss", 3.0)),
        ({"Eval/Loss": 2.0}, ("Eval/Loss", 2.0)),
    ],
)
def test_the_held_out_loss_is_found_by_its_name(
    logged: dict[str, float], expected: tuple[str, float] | None
) -> None:
    assert find_evaluation(logged) == expected


@given(st.lists(st.tuples(values, st.none() | st.integers(0, 3)), min_size=1, max_size=20))
def test_a_course_survives_json(steps: list[tuple[float | None, int | None]]) -> None:
    points = [
        make_point(step, loss, epoch, gradient_norm=loss, evaluation=None)
        for step, (loss, epoch) in enumerate(steps, start=1)
    ]
    course = walk(points)

    document = json.loads(json.dumps(asdict(course), allow_nan=False))

    assert from_plain(Course, document, "course") == course


def test_following_leaves_the_course_before_as_it_was() -> None:
    before = walk([make_point(1, 2.0, epoch=0)])

    follow(before, make_point(2, 1.0, epoch=1))

    assert before == walk([make_point(1, 2.0, epoch=0)])
