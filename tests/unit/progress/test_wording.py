"""Numbers, durations and names as they are written."""

import math
import os

import pytest

from tracksided.progress.wording import UNKNOWN, duration, moment, number, readable


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "unknown"),
        (0.4263, "0.426 s"),
        (59.0, "59 s"),
        (60.0, "1 min 0 s"),
        (179.97, "3 min 0 s"),
        (3599.2, "59 min 59 s"),
        (3600.0, "1 h 0 min"),
        (7199.0, "2 h 0 min"),
        (86399.0, "24 h 0 min"),
        (90000.0, "1 d 1 h"),
    ],
)
def test_duration_has_its_two_largest_units(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "unknown"),
        (0.0, "0"),
        (1.23456789, "1.2346"),
        (0.0005, "5.000e-04"),
        (123456.0, "123456"),
        (1234567.0, "1.235e+06"),
        (-2.5, "-2.5"),
        (math.nan, "NaN"),
        (math.inf, "infinite"),
        (-math.inf, "-infinite"),
    ],
)
def test_number_is_short_and_says_what_is_not_finite(value: float | None, text: str) -> None:
    assert number(value) == text


def test_name_that_is_not_utf8_gets_question_marks() -> None:
    assert readable(os.fsdecode(b"a\xff\xc3\xa9")) == "a?\u00e9"
    assert readable("a\ud800") == "a?"  # JSON can hold half of a pair


@pytest.mark.parametrize("unix_s", [None, math.nan, math.inf, 1e17, 1e300, -1e17])
def test_a_time_that_no_calendar_has_is_unknown(unix_s: float | None) -> None:
    assert moment(unix_s) == UNKNOWN
