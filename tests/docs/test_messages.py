"""What the pages quote as a message is a message of the program."""

import re
from collections.abc import Iterator

import pytest
from documents import ROOT, pages
from messages import is_example, is_said

from trackside.wire.layout import DropCause

SYMPTOMS = "| you see |"  # tables under this head quote messages in their first column
_QUOTED = re.compile(r"`([^`]+)`")


def _quoted() -> Iterator[tuple[str, str]]:
    for page in pages():
        is_inside = False
        for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
            is_inside = line.startswith(SYMPTOMS) or (is_inside and line.startswith("|"))
            if is_inside:
                for text in _QUOTED.findall(line.split(" | ")[0]):
                    # One word is a name, and commands are checked with all other commands.
                    if " " in text and not text.startswith("trackside "):
                        yield f"{page.relative_to(ROOT)}:{number}", text


MESSAGES = sorted(_quoted())


def test_the_pages_quote_messages() -> None:
    assert len(MESSAGES) > 50


@pytest.mark.parametrize(("place", "message"), MESSAGES)
def test_a_quoted_message_exists(place: str, message: str) -> None:
    assert is_said(message), f"{place}: nothing says {message!r}"


@pytest.mark.parametrize(
    "message",
    [
        "no room for a chain of ... bytes in",
        "no room for a ring of bytes in",  # what differs must be marked
        "bytes in ... no room for a ring of",
        "Whether one text of the source reads like this",
    ],
)
def test_a_message_that_nobody_says_is_noticed(message: str) -> None:
    assert not is_said(message)


def _warnings() -> Iterator[str]:
    """Yield what the page about capture quotes, with numbers and names in place."""
    page = (ROOT / "docs" / "capture.md").read_text(encoding="utf-8")
    _, table = page.split("| case | the warning |")
    for row in table.split("\n\n", 1)[0].splitlines():
        yield from (text for text in _QUOTED.findall(row.split(" | ")[-1]) if " " in text)


WARNINGS = sorted(_warnings())


def test_the_page_about_capture_quotes_warnings() -> None:
    assert len(WARNINGS) > 10


@pytest.mark.parametrize("warning", WARNINGS)
def test_a_quoted_warning_is_one(warning: str) -> None:
    without_numbers = re.sub(r"\b\d+\b", "...", warning)

    assert is_said(warning) or is_said(without_numbers) or is_example(warning)


@pytest.mark.parametrize(
    "warning",
    ["no layer 7 under 2 of decoder self_attention", "scaled_dot_product_attention on a DTensor"],
)
def test_a_warning_that_nobody_gives_is_noticed(warning: str) -> None:
    assert not is_example(warning)


def test_every_cause_of_a_drop_has_its_mend() -> None:
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")

    assert [cause.label for cause in DropCause if f"`{cause.label}`" not in page] == []
