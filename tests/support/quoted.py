"""What the pages say that a training writes and prints, held against one.

A block ``text title="tree"`` lists paths, each with what it is behind ``#``:

    outputs/step_20/           # a directory
    step_10/ ... step_50/      # two of them
    logs/<run>/history.jsonl   # `<run>` is any name that fits once; `logged` holds `accuracy`

Words between backticks are keys or values in that JSON file. A block ``text title="output"`` is
what a command prints.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

_COMMENT = re.compile(r"\s+#\s")
_WORD = re.compile(r"`([^`]+)`")
_DECIMAL = re.compile(r"\d+\.\d+")
_JSON = {".json", ".jsonl"}
LAST_DIGITS = 0.03  # in which a loss differs from machine to machine


def listed(tree: str) -> list[tuple[str, str]]:
    """Return every path of a tree with what is said of it."""
    found = []
    for line in tree.splitlines():
        paths, *comment = _COMMENT.split(line, maxsplit=1)
        found += [(path.strip(), "".join(comment)) for path in paths.split(" ... ")]
    return found


def mistakes(tree: str, directory: Path) -> list[str]:
    """Return what a tree says that a directory does not hold."""
    return [mistake for path, said in listed(tree) for mistake in _about(directory, path, said)]


def _about(directory: Path, path: str, said: str) -> Iterator[str]:
    found = list(directory.glob(re.sub("<[^>]+>", "*", path.rstrip("/"))))
    if len(found) != 1:
        yield f"{path}: {len(found)} in {directory}"
        return
    (place,) = found
    if place.is_dir() != path.endswith("/"):
        yield f"{path}: a directory ends with a slash, a file does not"
    words = _WORD.findall(said)
    if words and place.suffix not in _JSON:
        yield f"{path}: {words} cannot be looked up in it"
    elif words:
        there = set(_words(_documents(place)))
        yield from (f"{path}: no {word!r} in it" for word in words if word not in there)


def _documents(path: Path) -> list[Any]:
    text = path.read_text(encoding="utf-8")
    return [json.loads(part) for part in (text.splitlines() if path.suffix == ".jsonl" else [text])]


def _words(document: Any) -> Iterator[str]:
    """Yield all keys and texts of a JSON document."""
    if isinstance(document, dict):
        yield from document
    if isinstance(document, (dict, list)):
        for value in document.values() if isinstance(document, dict) else document:
            yield from _words(value)
    elif isinstance(document, str):
        yield document


def is_output(said: str, printed: str) -> bool:
    """Whether a command printed what a page says; ``...`` stands for lines between."""
    found = re.fullmatch("".join(map(_pattern, said.splitlines())), printed)
    if found is None:
        return False
    expected = [float(number) for number in _DECIMAL.findall(said)]
    return [float(number) for number in found.groups()] == pytest.approx(expected, abs=LAST_DIGITS)


def _pattern(line: str) -> str:
    if line == "...":
        return r"(?:.*\n)*"
    return rf"({_DECIMAL.pattern})".join(map(re.escape, _DECIMAL.split(line))) + r"\n"
