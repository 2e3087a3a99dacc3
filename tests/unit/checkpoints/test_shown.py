"""Names of other people's files in our messages."""

import pytest

from tracksided.checkpoints.shown import shown, unquoted


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("layers.0.weight", "'layers.0.weight'"),
        ("", "''"),
        ("it's", '"it\'s"'),
        ("\x1b]0;title\x07\n\x9b", r"'\x1b]0;title\x07\n\x9b'"),
        ("\u202eright", r"'\u202eright'"),
        ("\ud800", r"'\ud800'"),
        ("k" * 100, "'" + "k" * 100 + "'"),
        ("k" * 101, "'" + "k" * 100 + "...'"),
    ],
)
def test_names_are_quoted_and_cut(name: str, expected: str) -> None:
    assert shown(name) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("layers.0.weight", "layers.0.weight"),
        ("", ""),
        ("it's", "it's"),
        ("'\x1b", r"'\x1b"),
        ("k" * 101, "k" * 100 + "..."),
    ],
)
def test_without_quotes_names_are_just_as_harmless(name: str, expected: str) -> None:
    assert unquoted(name) == expected
