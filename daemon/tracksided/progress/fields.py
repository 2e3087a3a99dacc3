"""Typed values out of JSON documents; what is missing or of another kind is None."""

MAX_STEP = (1 << 62) - 1  # fits the int64 of numpy and TensorBoard, with room for differences


def number(value: object) -> float | None:
    """Return a number, NaN and infinity included."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:  # JSON's whole numbers have no limit
        return None


def positive(value: object) -> float | None:
    """Return a number above 0: trainers write 0 or -1 for what is not set."""
    found = number(value)
    return found if found is not None and found > 0 else None


def count(value: object) -> int | None:
    """Return a whole number above 0."""
    return step(value) or None


def step(value: object) -> int | None:
    """Return a whole number of 0 or more that a step can be."""
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    return value if 0 <= value <= MAX_STEP else None
