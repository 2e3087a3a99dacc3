"""Take typed values out of JSON objects; a value of another type counts as missing.

What comes out can always be sent: a number fits a float, a text can be encoded.
"""

from collections.abc import Mapping
from typing import Any

_TOO_LARGE = 1 << 63
_MAX_DEPTH = 8  # of what is sent as it is; ours nests four deep
_MAX_ENTRIES = 20_000  # of it; a node of a hundred GPUs and a thousand ranks has fewer
_CHARS_PER_ENTRY = 64  # what a text costs, measured in entries


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


def as_it_is(value: object) -> Any:
    """Return a value that is kept and sent whole; None where it is deeper or larger than ours."""
    return value if _num_entries(value, _MAX_DEPTH) <= _MAX_ENTRIES else None


def sendable(value: str) -> str:
    """Replace what UTF-8 cannot hold: bytes of a file name that are no UTF-8, for one."""
    return value.encode("utf-8", "replace").decode("utf-8")


def _num_entries(value: object, depth: int) -> int:
    """Count the entries of a JSON value, as far as the bounds go."""
    if isinstance(value, str):
        return 1 + len(value) // _CHARS_PER_ENTRY
    if not isinstance(value, dict | list):
        return 1
    if depth == 0:
        return _MAX_ENTRIES + 1
    total = 1
    for entry in value.values() if isinstance(value, dict) else value:
        total += _num_entries(entry, depth - 1)
        if total > _MAX_ENTRIES:
            break
    return total
