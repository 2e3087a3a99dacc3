"""When a directory is looked at, and when it has settled. Files are numbers of bytes here."""

import pytest

from tracksided.checkpoints.settling import CALM_S, LONG_CALM_S, MAX_NAMES, Happening, Settling
from tracksided.checkpoints.watcher import Look

POLL_S = 60.0
APPEARED, CLOSED = Happening.APPEARED, Happening.CLOSED
MISSED, OPENED = Happening.MISSED, Happening.OPENED


def look(**sizes: int) -> Look:
    return Look(frozenset((f"{name}.pt", 1, size, size) for name, size in sizes.items()))


def observe(settling: Settling, seen: Look, now: float, *, is_urgent: bool = False) -> Look | None:
    return settling.observe(seen, now, POLL_S, is_urgent=is_urgent)


def hasten(settling: Settling, seen: Look, limit: float = 1e6) -> float | None:
    """Look whenever events ask for it; return when it settled, None where nothing asks any more."""
    while (now := settling.next_look) is not None:
        assert now <= limit
        if observe(settling, seen, now):
            return now
    return None


def test_without_events_a_change_is_new_once_after_one_interval_of_polling() -> None:
    settling = Settling()

    assert not observe(settling, look(a=1), 0.0)
    assert not observe(settling, look(a=1), POLL_S - 0.1)
    assert observe(settling, look(a=1), POLL_S)
    settling.handled(look(a=1))
    assert not observe(settling, look(a=1), 2 * POLL_S)
    assert not observe(settling, look(a=2), 3 * POLL_S)
    assert not observe(settling, look(a=3), 4 * POLL_S)
    assert observe(settling, look(a=3), 5 * POLL_S)


def test_a_checkpoint_that_grows_holds_up_no_other() -> None:
    settling = Settling()

    assert observe(settling, look(a=1, growing=1), 0.0) is None
    assert observe(settling, look(a=1, growing=2), POLL_S) == look(a=1)
    settling.handled(look(a=1))
    assert observe(settling, look(a=1, b=1, growing=3), 2 * POLL_S) is None
    assert observe(settling, look(a=1, b=1, growing=4), 3 * POLL_S) == look(a=1, b=1)
    settling.handled(look(a=1, b=1))
    assert observe(settling, look(a=1, b=1, growing=4), 4 * POLL_S) == look(a=1, b=1, growing=4)


def test_a_removal_waits_for_what_still_grows_and_counts_then() -> None:
    settling = Settling()
    assert observe(settling, look(a=1, b=1), 0.0, is_urgent=True)
    settling.handled(look(a=1, b=1))

    assert observe(settling, look(b=1, c=1), 1 * POLL_S) is None
    assert observe(settling, look(b=1, c=2), 2 * POLL_S) is None
    assert observe(settling, look(b=1, c=2), 3 * POLL_S) == look(b=1, c=2)
    settling.handled(look(b=1, c=2))
    assert observe(settling, look(c=2), 4 * POLL_S) is None
    assert observe(settling, look(c=2), 5 * POLL_S) == look(c=2)


def test_what_came_in_a_burst_settles_at_once() -> None:
    settling = Settling()
    for number in range(10):
        now = number * CALM_S / 2
        some = look(**{f"step_{written}": 1 for written in range(number)})
        assert observe(settling, some, now) is None  # polls may come at any time
        settling.note(f"step_{number}.pt", CLOSED, now)
    whole = look(**{f"step_{number}": 1 for number in range(10)})

    for _ in range(2):
        at = settling.next_look
        assert at is not None
        settled = observe(settling, whole, at)

    assert settled == whole


def test_an_urgent_change_need_not_settle_but_must_be_new() -> None:
    settling = Settling()

    assert observe(settling, look(a=1), 0.0, is_urgent=True)
    settling.handled(look(a=1))
    assert not observe(settling, look(a=1), 1.0, is_urgent=True)
    settling.forget()
    assert observe(settling, look(a=1), 2.0, is_urgent=True)


def test_after_an_event_two_looks_alike_settle_it() -> None:
    settling = Settling()
    observe(settling, look(a=1), 0.0)

    settling.note("b.pt", CLOSED, 10.0)

    assert settling.next_look == 10.0 + CALM_S
    assert hasten(settling, look(a=1, b=1)) == pytest.approx(10.0 + 2 * CALM_S)
    assert settling.next_look is None


def test_a_look_of_the_polls_in_between_does_not_count_as_the_second() -> None:
    settling = Settling()
    settling.note("a.pt", CLOSED, 10.0)

    assert not observe(settling, look(a=1), 10.0 + 0.9 * CALM_S)
    assert not observe(settling, look(a=1), 10.0 + CALM_S)

    assert hasten(settling, look(a=1)) == pytest.approx(10.0 + 1.9 * CALM_S)


def test_a_burst_of_events_puts_the_look_off_and_makes_no_more_of_them() -> None:
    settling = Settling()

    for number in range(100):
        settling.note(f"{number}.pt", CLOSED, number * CALM_S / 2)

    assert settling.next_look == pytest.approx(99 * CALM_S / 2 + CALM_S)


def test_no_event_hastens_a_look_while_a_new_file_is_open() -> None:
    settling = Settling()
    settling.note("b.pt", OPENED, 0.0)
    settling.note("a.pt", CLOSED, 1.0)
    assert settling.next_look is None

    settling.note("b.pt", CLOSED, 20.0)

    assert settling.next_look == 20.0 + CALM_S


def test_a_file_that_is_opened_while_another_settles_holds_it_up() -> None:
    settling = Settling()
    settling.note("a.pt", CLOSED, 0.0)
    assert not observe(settling, look(a=1), CALM_S)

    settling.note("b.pt", OPENED, CALM_S)

    assert settling.next_look is None


def test_a_file_that_nobody_closes_is_left_to_the_polls() -> None:
    settling = Settling()
    settling.note("b.pt", OPENED, 0.0)
    observe(settling, look(a=1, b=1), 0.0)
    assert observe(settling, look(a=1, b=1), POLL_S)

    settling.note("c.pt", CLOSED, POLL_S)

    assert settling.next_look == POLL_S + CALM_S


def test_a_file_that_is_closed_again_and_again_settles_when_that_has_ended() -> None:
    settling = Settling()
    for number in range(20):  # appended to every second; each event comes before the first look
        now = float(number)
        settling.note("a.pt", CLOSED, now)
        while settling.next_look is not None and settling.next_look < now + 1.0:
            settled = observe(settling, look(a=number), settling.next_look)
            assert not settled or number == 0  # of the first close nobody knows that more follow

    assert hasten(settling, look(a=19)) == pytest.approx(19.0 + 2 * LONG_CALM_S)
    settling.note("a.pt", CLOSED, 100.0)
    assert settling.next_look == 100.0 + CALM_S


def test_a_change_without_an_event_is_left_to_the_polls() -> None:
    settling = Settling()
    settling.note("a.pt", CLOSED, 0.0)
    assert not observe(settling, look(a=1, b=1), CALM_S)

    assert not observe(settling, look(a=1, b=2), 2 * CALM_S)

    assert settling.next_look is None


def test_what_was_there_before_anybody_listened_has_to_stay_longer() -> None:
    settling = Settling()
    settling.note("", MISSED, 0.0)
    assert not observe(settling, look(a=1), 0.0)

    assert hasten(settling, look(a=1)) == pytest.approx(LONG_CALM_S)


def test_in_an_empty_directory_nothing_was_there_before() -> None:
    settling = Settling()
    settling.note("", MISSED, 0.0)
    assert not observe(settling, look(), 0.0)

    settling.note("a.pt", CLOSED, 1.0)

    assert settling.next_look == 1.0 + CALM_S


def test_lost_events_let_go_of_open_files() -> None:
    settling = Settling()
    settling.note("b.pt", OPENED, 0.0)

    settling.note("", MISSED, 1.0)

    assert settling.next_look == 1.0 + LONG_CALM_S


def test_a_file_that_takes_its_name_before_it_is_closed_was_not_written_anew() -> None:
    settling = Settling()

    settling.note("checkpoint-1/model.safetensors", APPEARED, 0.0)
    settling.note("checkpoint-1/model.safetensors", CLOSED, 0.01)

    assert settling.next_look == pytest.approx(0.01 + CALM_S)


def test_files_that_are_replaced_whole_again_and_again_are_complete_each_time() -> None:
    settling = Settling()

    for number in range(5):
        settling.note("last.pt", APPEARED, float(number))
        assert hasten(settling, look(last=number)) == pytest.approx(number + 2 * CALM_S)


def test_what_is_remembered_is_bounded() -> None:
    settling = Settling()

    for number in range(3 * MAX_NAMES):
        settling.note(f"{number}.pt", CLOSED, 0.0)
        settling.note(f"open_{number}.pt", OPENED, 0.0)

    assert len(settling._closed_at) <= MAX_NAMES
    assert len(settling._open) <= MAX_NAMES
