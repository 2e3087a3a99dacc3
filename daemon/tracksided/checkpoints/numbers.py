"""What counts as a number in content that others wrote."""

import math
from collections.abc import Mapping

MAX_COUNT = 1 << 62  # what torch can count, with room for a sum; no step comes so far
MAX_DIMENSIONS = 64  # torch's own limit


def as_number(value: object) -> float | None:
    """Return a number as a float, one beyond its range as infinity, and all else as None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def numbers_in(content: object) -> dict[str, float]:
    """Return the numbers of a mapping by their names; of anything else, none."""
    if not isinstance(content, Mapping):
        return {}
    found = {name: as_number(value) for name, value in content.items() if isinstance(name, str)}
    return {name: value for name, value in found.items() if value is not None}
