"""Take typed values out of JSON objects; a value of another type counts as missing."""

from collections.abc import Mapping
from typing import Any


def number(entry: Mapping[str, Any], key: str) -> float | None:
    """Return a number, None where it is unknown."""
    value = entry.get(key)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def count(entry: Mapping[str, Any], key: str) -> int:
    """Return a whole number, 0 where it is missing."""
    value = entry.get(key)
    return value if isinstance(value, int) else 0


def text(entry: Mapping[str, Any], key: str) -> str | None:
    """Return a text, None where it is missing."""
    value = entry.get(key)
    return value if isinstance(value, str) else None


def objects(entry: Mapping[str, Any], key: str) -> tuple[Mapping[str, Any], ...]:
    """Return the objects of a list, empty where it is missing."""
    value = entry.get(key)
    found = value if isinstance(value, list) else []
    return tuple(part for part in found if isinstance(part, dict))


def counts(entry: Mapping[str, Any], key: str) -> dict[str, int]:
    """Return an object whose values are whole numbers, empty where it is missing."""
    value = entry.get(key)
    found = value if isinstance(value, dict) else {}
    return {str(name): part for name, part in found.items() if isinstance(part, int)}
