"""What each tensor dtype is made of, and how its elements are averaged."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum


class Rule(Enum):
    """What becomes of the elements of a dtype."""

    AVERAGE = "average"
    NEWEST = "newest"
    """Taken unchanged from the newest checkpoint: counters, masks, token ids."""

    REFUSE = "refuse"
    """Neither can be averaged here nor would the newest value be right."""


@dataclass(frozen=True, slots=True)
class Dtype:
    """One dtype under torch's name."""

    name: str
    itemsize: int
    rule: Rule
    element: str = ""
    """What is averaged: float16, bfloat16, float32 or float64; complex ones are pairs."""


_FLOATS = (
    Dtype("float16", 2, Rule.AVERAGE, "float16"),
    Dtype("bfloat16", 2, Rule.AVERAGE, "bfloat16"),
    Dtype("float32", 4, Rule.AVERAGE, "float32"),
    Dtype("float64", 8, Rule.AVERAGE, "float64"),
    Dtype("complex64", 8, Rule.AVERAGE, "float32"),
    Dtype("complex128", 16, Rule.AVERAGE, "float64"),
)
_COUNTED = (
    Dtype("bool", 1, Rule.NEWEST),
    Dtype("uint8", 1, Rule.NEWEST),
    Dtype("int8", 1, Rule.NEWEST),
    Dtype("int16", 2, Rule.NEWEST),
    Dtype("uint16", 2, Rule.NEWEST),
    Dtype("int32", 4, Rule.NEWEST),
    Dtype("uint32", 4, Rule.NEWEST),
    Dtype("int64", 8, Rule.NEWEST),
    Dtype("uint64", 8, Rule.NEWEST),
)
_REFUSED = (
    Dtype("float8_e4m3fn", 1, Rule.REFUSE),
    Dtype("float8_e4m3fnuz", 1, Rule.REFUSE),
    Dtype("float8_e5m2", 1, Rule.REFUSE),
    Dtype("float8_e5m2fnuz", 1, Rule.REFUSE),
    Dtype("float8_e8m0fnu", 1, Rule.REFUSE),
    Dtype("complex32", 4, Rule.REFUSE),
)

DTYPES: Mapping[str, Dtype] = {dtype.name: dtype for dtype in _FLOATS + _COUNTED + _REFUSED}
