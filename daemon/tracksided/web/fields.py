"""Take typed values out of JSON objects; a value of another type counts as missing.

What comes out can always be sent: a number fits a float, a text can be encoded.
"""

from collections.abc import Mapping
from typing import Any

_TOO_LARGE = 1 << 63


def number(entry: Mapping[str, Any], key: str) -> float | None:
    """Return a number, None where it is unknown."""
    value = entry.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:  # JSON has integers beyond any float
        return None


def count(entry: Mapping[str, Any], key: str) -> int:
    """Return a whole number, 0 where it is missing."""
    value = entry.get(key)
    return value if isinstance(value, int) and abs(value) < _TOO_LARGE else 0


def text(entry: Mapping[str, Any], key: str) -> str | None:
    """Return a text, None where it is missing."""
    value = entry.get(key)
    return sendable(value) if isinstance(value, str) else None


def objects(entry: Mapping[str, Any], key: str) -> tuple[Mapping[str, Any], ...]:
    """Return the objects of a list, empty where it is missing."""
    value = entry.get(key)
    found = value if isinstance(value, list) else []
    return tuple(part for part in found if isinstance(part, dict))


def counts(entry: Mapping[str, Any], key: str) -> dict[str, int]:
    """Return an object whose values are whole numbers, empty where it is missing."""
    value = entry.get(key)
    found = value if isinstance(value, dict) else {}
    return {
        sendable(str(name)): part
        for name, part in found.items()
        if isinstance(part, int) and abs(part) < _TOO_LARGE
    }


def sendable(value: str) -> str:
    """Replace what UTF-8 cannot hold: bytes of a file name that are no UTF-8, for one."""
    return value.encode("utf-8", "replace").decode("utf-8")
