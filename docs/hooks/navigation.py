"""Patterns in the navigation: ``adr/*.md`` stands for all pages that match, by name."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any


def expanded(nav: Sequence[Any], docs: Path) -> list[Any]:
    """Return a navigation with its patterns replaced, and without sections that are empty."""
    return [entry for item in nav for entry in _entries(item, docs)]


def _entries(item: Any, docs: Path) -> Iterator[Any]:
    if isinstance(item, str) and "*" in item:
        yield from sorted(path.relative_to(docs).as_posix() for path in docs.glob(item))
    elif isinstance(item, dict):
        for title, below in item.items():
            found = expanded(below, docs) if isinstance(below, list) else below
            if found:
                yield {title: found}
    else:
        yield item
