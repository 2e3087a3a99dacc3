"""Typed values from what msgpack unpacks, and back; everything is checked, nothing is trusted."""

import functools
import sys
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, Literal

from trackside.errors import RecordCorrupt

_PLAIN = frozenset({bool, float, int, str})  # most values: nothing to build


def fields_of(value: Any) -> dict[str, Any]:
    """Return the fields of a dataclass by name: what msgpack cannot pack by itself.

    Raises:
        TypeError: ``value`` is not a dataclass.
    """
    kind: Any = type(value)
    return {name: getattr(value, name) for name in _field_names(kind)}


def from_plain(expected: Any, value: Any, where: str) -> Any:
    """Check a value against an annotation and build it.

    Args:
        expected: a dataclass, a scalar type, ``tuple[T, ...]``, ``dict[str, T]``, a literal, an
            optional of these, or ``Any``.
        value: as msgpack unpacks it.
        where: names the value in an error.

    Raises:
        RecordCorrupt: a field is missing, unknown or of another type.
    """
    origin = typing.get_origin(expected)
    if expected is Any:
        return value
    if origin in {types.UnionType, typing.Union}:
        if value is None and type(None) in typing.get_args(expected):
            return None
        (inner,) = [arm for arm in typing.get_args(expected) if arm is not type(None)]
        return from_plain(inner, value, where)
    builder = _BUILDERS.get(origin)
    if builder is not None:
        return builder(expected, value, where)
    if is_dataclass(expected):
        return _build_dataclass(expected, value, where)
    return _check_scalar(expected, value, where)


def _build_tuple(expected: Any, value: Any, where: str) -> tuple[Any, ...]:
    item, _ = typing.get_args(expected)
    if not isinstance(value, list):
        raise RecordCorrupt(f"{where} is a {type(value).__name__}, expected a list")
    return tuple(from_plain(item, entry, f"{where}[{i}]") for i, entry in enumerate(value))


def _build_dict(expected: Any, value: Any, where: str) -> dict[str, Any]:
    _, item = typing.get_args(expected)
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise RecordCorrupt(f"{where} is not a map with text keys")
    return {key: from_plain(item, entry, f"{where}[{key!r}]") for key, entry in value.items()}


def _build_literal(expected: Any, value: Any, where: str) -> Any:
    allowed = typing.get_args(expected)
    if value not in allowed:
        raise RecordCorrupt(f"{where} is {value!r}, expected one of {', '.join(allowed)}")
    return value


_BUILDERS: Mapping[Any, Callable[[Any, Any, str], Any]] = {
    tuple: _build_tuple,
    dict: _build_dict,
    Literal: _build_literal,
}


def _build_dataclass(expected: Any, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise RecordCorrupt(f"{where} is a {type(value).__name__}, expected a map")
    hints = _hints(expected)
    if value.keys() != hints.keys():
        missing = sorted(hints.keys() - value.keys())
        unknown = sorted(map(str, value.keys() - hints.keys()))
        raise RecordCorrupt(f"{where}: missing fields {missing}, unknown fields {unknown}")
    return expected(
        **{
            name: value[name]
            if hint in _PLAIN and type(value[name]) is hint
            else from_plain(hint, value[name], f"{where}.{name}")
            for name, hint in hints.items()
        }
    )


@functools.cache
def _field_names(of: type[Any]) -> tuple[str, ...]:
    return tuple(field.name for field in fields(of))


@functools.cache
def _hints(of: type[Any]) -> Mapping[str, Any]:
    return typing.get_type_hints(of, vars(sys.modules[of.__module__]))


def _check_scalar(expected: Any, value: Any, where: str) -> Any:
    if expected is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not expected:
        raise RecordCorrupt(f"{where} is {value!r:.80}, expected {expected.__name__}")
    return value
