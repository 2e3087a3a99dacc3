"""Which steps go on, and when."""

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from tracksided.ingest.aligner import Aligner


def make_aligner(num_ranks: int = 2) -> Aligner[str]:
    return Aligner(num_ranks=num_ranks, now=0.0, join_grace_s=20.0, max_lag_s=60.0)


def test_step_waits_for_every_rank() -> None:
    aligner = make_aligner()
    aligner.deliver(0, 10, "a", 1.0)
    aligner.join(1)

    assert aligner.release(1.0) == []

    aligner.deliver(1, 10, "b", 2.0)
    (released,) = aligner.release(2.0)
    assert (released.step, released.by_rank) == (10, {0: "a", 1: "b"})


def test_step_goes_on_without_a_rank_that_has_moved_past_it() -> None:
    aligner = make_aligner()
    aligner.deliver(0, 10, "a", 1.0)
    aligner.deliver(1, 20, "b", 1.0)

    assert [entry.step for entry in aligner.release(1.0)] == [10]


def test_step_goes_on_without_a_rank_that_left() -> None:
    aligner = make_aligner()
    aligner.deliver(0, 10, "a", 1.0)
    aligner.join(1)
    aligner.leave(1)

    assert [entry.step for entry in aligner.release(1.0)] == [10]


def test_rank_that_never_appears_is_waited_for_until_the_grace_ends() -> None:
    aligner = make_aligner()
    aligner.deliver(0, 10, "a", 1.0)

    assert aligner.release(19.9) == []
    assert [entry.step for entry in aligner.release(20.0)] == [10]


def test_lagging_rank_is_waited_for_until_the_limit() -> None:
    aligner = make_aligner()
    aligner.deliver(0, 10, "a", 30.0)
    aligner.join(1)

    assert aligner.release(89.9) == []
    assert [entry.step for entry in aligner.release(90.0)] == [10]
    assert not aligner.deliver(1, 10, "late", 91.0)


def test_steps_written_by_an_earlier_daemon_are_not_taken_again() -> None:
    aligner = make_aligner(num_ranks=1)
    aligner.resume(0, step=10, released=20)

    assert not aligner.deliver(0, 20, "again", 1.0)
    assert aligner.deliver(0, 30, "new", 1.0)
    assert [entry.step for entry in aligner.release(1.0)] == [30]


def test_steps_of_a_training_that_goes_back_are_released_again() -> None:
    aligner = make_aligner()
    released = []
    for step in (10, 20, 30, 20, 30, 40):
        for rank in (0, 1):
            assert aligner.deliver(rank, step, f"{rank}", 1.0)
        released += aligner.release(1.0)

    assert [entry.step for entry in released] == [10, 20, 30, 20, 30, 40]
    assert all(set(entry.by_rank) == {0, 1} for entry in released)


def test_rank_that_goes_back_first_waits_for_the_others() -> None:
    aligner = make_aligner()
    for step in (10, 20, 10):
        aligner.deliver(0, step, "a", 1.0)
    aligner.deliver(1, 10, "b", 1.0)
    assert [entry.step for entry in aligner.release(1.0)] == [10]

    for step in (20, 10):
        aligner.deliver(1, step, "b", 1.0)

    assert [(entry.step, len(entry.by_rank)) for entry in aligner.release(1.0)] == [
        (20, 2),
        (10, 2),
    ]


def test_training_that_goes_back_after_a_restart_of_the_daemon_is_followed() -> None:
    aligner = make_aligner(num_ranks=1)
    aligner.resume(0, step=50, released=50)

    assert aligner.deliver(0, 20, "back", 1.0)
    assert [entry.step for entry in aligner.release(1.0)] == [20]


def test_rank_that_lags_is_waited_for_once_until_it_has_caught_up() -> None:
    aligner = make_aligner()
    aligner.join(1)
    aligner.deliver(0, 10, "a", 30.0)
    aligner.release(90.0)

    aligner.deliver(0, 20, "a", 91.0)
    assert [entry.step for entry in aligner.release(91.0)] == [20]

    aligner.deliver(1, 30, "b", 92.0)
    aligner.release(92.0)
    aligner.deliver(0, 40, "a", 93.0)
    assert [entry.step for entry in aligner.release(93.0)] == [30]


def test_it_is_over_only_when_all_ranks_left_and_nothing_waits() -> None:
    aligner = make_aligner()
    aligner.deliver(0, 10, "a", 1.0)
    aligner.leave(0)
    assert not aligner.is_over(1.0)
    aligner.deliver(1, 10, "b", 1.0)
    aligner.leave(1)
    assert not aligner.is_over(1.0)

    aligner.release(1.0)

    assert aligner.is_over(1.0)


def test_it_is_not_over_before_a_rank_that_is_still_to_come() -> None:
    aligner = make_aligner()
    aligner.leave(0)

    assert not aligner.is_over(19.9)
    assert aligner.is_over(20.0)


def test_ranks_come_in_order_whoever_delivers_first() -> None:
    aligner = make_aligner()
    aligner.deliver(1, 10, "b", 1.0)
    aligner.deliver(0, 10, "a", 1.0)

    (released,) = aligner.release(1.0)

    assert list(released.by_rank.items()) == [(0, "a"), (1, "b")]


def test_the_same_step_again_is_one_of_another_lap() -> None:
    aligner = make_aligner(num_ranks=1)
    released = []
    for item in ("first", "again"):
        assert aligner.deliver(0, 10, item, 1.0)
        released += aligner.release(1.0)

    assert [(entry.step, entry.by_rank[0]) for entry in released] == [(10, "first"), (10, "again")]


def test_a_rank_that_joins_late_brings_no_step_back() -> None:
    aligner = make_aligner()
    aligner.deliver(0, 20, "a", 1.0)
    assert [entry.step for entry in aligner.release(61.0)] == [20]

    aligner.resume(1, step=0, released=10)

    assert not aligner.deliver(1, 15, "late", 62.0)
    assert aligner.deliver(1, 30, "b", 62.0)


def test_the_limit_counts_from_the_first_rank_that_delivered() -> None:
    aligner = make_aligner(num_ranks=3)
    aligner.join(2)
    aligner.deliver(0, 10, "a", 30.0)
    aligner.deliver(1, 10, "b", 80.0)

    assert aligner.release(89.9) == []
    assert [entry.step for entry in aligner.release(90.0)] == [10]


@given(
    st.lists(
        st.lists(st.integers(1, 30), unique=True, max_size=10).map(sorted), min_size=1, max_size=4
    ),
    st.randoms(use_true_random=False),
)
def test_every_step_is_released_once_in_order_with_all_that_was_delivered(
    steps_by_rank: list[list[int]], random: Random
) -> None:
    num_ranks = len(steps_by_rank)
    aligner: Aligner[tuple[int, int]] = Aligner(
        num_ranks=num_ranks, now=0.0, join_grace_s=1e9, max_lag_s=1e9
    )
    queues = [list(steps) for steps in steps_by_rank]
    active = set(range(num_ranks))
    released = []
    while active:
        rank = random.choice(sorted(active))
        if queues[rank]:
            step = queues[rank].pop(0)
            assert aligner.deliver(rank, step, (rank, step), 0.0)
        else:
            aligner.leave(rank)
            active.remove(rank)
        released += aligner.release(0.0)

    expected = {
        step: {rank: (rank, step) for rank in range(num_ranks) if step in steps_by_rank[rank]}
        for step in sorted({step for steps in steps_by_rank for step in steps})
    }
    assert [(entry.step, dict(entry.by_rank)) for entry in released] == list(expected.items())
    assert aligner.is_over(0.0)
