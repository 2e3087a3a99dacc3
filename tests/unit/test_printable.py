"""Texts that others chose, on their way to a terminal or a log."""

import io
import logging
from collections.abc import Iterator

import pytest

from tracksided.printable import log_to_stderr, printable

HOSTILE = "a\x1b]0;b\x07\u202e\x9b2J\nc"
ESCAPED = "a\\x1b]0;b\\x07\\u202e\\x9b2J\\nc"


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """Return what a process whose log was just begun writes to its standard error."""
    written = io.StringIO()
    monkeypatch.setattr("sys.stderr", written)
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    level = root.level
    log_to_stderr(logging.WARNING, "%(name)s")
    yield written
    root.setLevel(level)


@pytest.mark.parametrize("text", ["step 3: 12%", "caf\u00e9 \u4e2d \U0001f600"])
def test_what_can_be_shown_stays(text: str) -> None:
    assert printable(text) == text


def test_what_a_terminal_obeys_or_hides_is_escaped() -> None:
    assert printable(HOSTILE) == ESCAPED
    assert printable("\udcff") == "\\udcff"  # a byte of a file name that is no UTF-8


def test_a_logged_name_is_no_line_of_its_own(log: io.StringIO) -> None:
    logging.getLogger("part").warning("run %s", HOSTILE)

    (line,) = log.getvalue().splitlines()
    assert line.endswith(f" WARNING part: run {ESCAPED}")


def test_a_logged_error_keeps_its_lines_and_loses_its_codes(log: io.StringIO) -> None:
    try:
        int(f"{HOSTILE}")
    except ValueError:
        logging.getLogger("part").exception("failed: %s", HOSTILE)

    lines = log.getvalue().split("\n")
    assert lines[0].endswith(f" ERROR part: failed: {ESCAPED}")
    assert lines[1] == "Traceback (most recent call last):"
    assert all(map(str.isprintable, lines))
