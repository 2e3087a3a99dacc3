"""How far ranks are apart."""

import pytest

from tracksided.convergence.ranks import num_distinct, step_time_skew, straggler_scores


def test_a_rank_is_compared_with_the_median_of_the_others() -> None:
    scores = straggler_scores({0: 1.0, 1: 1.0, 2: 2.0, 3: 1.2})

    assert scores == pytest.approx({0: 1.2, 1: 1.2, 2: 0.5, 3: 1.0 / 1.2})


def test_of_two_ranks_each_is_compared_with_the_other() -> None:
    assert straggler_scores({4: 1.0, 7: 4.0}) == {4: 4.0, 7: 0.25}


def test_one_rank_has_nobody_to_be_compared_with() -> None:
    assert straggler_scores({0: 1.0}) == {}
    assert step_time_skew({0: 1.0}) is None
    assert step_time_skew({}) is None


def test_the_skew_is_what_the_slowest_adds_to_the_median() -> None:
    assert step_time_skew({0: 1.0, 1: 1.0, 2: 1.5}) == 0.5
    assert step_time_skew({0: 2.0, 1: 2.0}) == 0.0


@pytest.mark.parametrize(
    ("checksums", "expected"),
    [
        ([], None),
        (["a", None], None),
        (["a", "a", None], 1),
        (["a", "b", "a"], 2),
    ],
)
def test_different_weights_are_counted(checksums: list[str | None], expected: int | None) -> None:
    assert num_distinct(checksums) == expected
