"""Types as they are written in a signature: ``X | Y``, without modules."""

from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin


def annotation(hint: Any) -> str:
    """Return the text of a type."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin in {Union, UnionType}:
        return " | ".join(annotation(part) for part in parts)
    if origin is Literal:
        return " | ".join(repr(part) for part in parts)
    name = "None" if hint is type(None) else getattr(origin or hint, "__name__", str(hint))
    inner = ", ".join(annotation(part) for part in parts)
    return f"{name}[{inner}]" if inner else name
