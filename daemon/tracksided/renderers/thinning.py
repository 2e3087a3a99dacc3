"""Fewer of many things, evenly."""

from collections.abc import Sequence
from typing import TypeVar

_Item = TypeVar("_Item")


def thinned(items: Sequence[_Item], limit: int) -> Sequence[_Item]:
    """Choose at most ``limit`` (2 or more) items, evenly, the first and the last among them."""
    if len(items) <= limit:
        return items
    last = len(items) - 1
    return [items[round(index * last / (limit - 1))] for index in range(limit)]
