"""Patterns in the navigation: ``adr/*.md`` stands for all pages that match, by name.

Pages that stand there by name are left out: a pattern takes in what has no place of its own yet.
"""

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any


def expanded(nav: Sequence[Any], docs: Path) -> list[Any]:
    """Return a navigation with its patterns replaced, and without sections that are empty."""
    return list(_expanded(nav, docs, frozenset(_named(nav))))


def _expanded(nav: Sequence[Any], docs: Path, named: Collection[str]) -> Iterator[Any]:
    for item in nav:
        if isinstance(item, str) and "*" in item:
            found = {path.relative_to(docs).as_posix() for path in docs.glob(item)}
            yield from sorted(found.difference(named))
        elif isinstance(item, dict):
            for title, below in item.items():
                inner = list(_expanded(below, docs, named)) if isinstance(below, list) else below
                if inner:
                    yield {title: inner}
        else:
            yield item


def _named(nav: Sequence[Any]) -> Iterator[str]:
    for item in nav:
        for entry in item.values() if isinstance(item, dict) else (item,):
            yield from _named(entry) if isinstance(entry, list) else (entry,)
