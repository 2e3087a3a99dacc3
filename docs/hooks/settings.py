"""The page of all settings, made of the dataclasses that hold them."""

import inspect
import json
from collections.abc import Iterator
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any, get_origin, get_type_hints

import griffe
from annotations import annotation

import trackside
from trackside.config import EmitterConfig
from trackside.environment import PREFIX
from trackside.wire.segment import SHM_DIR_VARIABLE
from tracksided.config import Settings

_HEAD = """# Settings

Made from the code when this site is built.

## Of a training

Keywords of `trackside.attach`. One that is given wins over its variable, the variable over the
default; [operations](../operations.md#settings-of-a-training) says how a variable is written.

| keyword | variable | type | default | meaning |
|---|---|---|---|---|
"""
_VARIABLES = """
Two variables have no keyword:

| variable | read by | default | meaning |
|---|---|---|---|
"""
_DAEMON = """
## Of the daemon

Keys of `daemon.toml`; [operations](../operations.md#settings) says where it lies. The rules of
`[alerts]` stand in tables of their own; [alerts](../alerts.md) says what each of their keys
means, and why it has its default.

"""
_TOML_TYPES = {bool: "true or false", int: "whole number", float: "number", str: "text"}


def settings_page() -> str:
    """Return the page in Markdown."""
    of_a_training = (*_keywords(), _VARIABLES.rstrip(), *_variables())
    return _HEAD + "\n".join(of_a_training) + "\n" + _DAEMON + "\n".join(_tables("", Settings))


def _keywords() -> Iterator[str]:
    meanings = _meanings(EmitterConfig)
    for name, parameter in inspect.signature(trackside.attach).parameters.items():
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY:
            yield _row(
                f"`{name}`",
                f"`{PREFIX}{name.upper()}`",
                f"`{annotation(parameter.annotation)}`",
                f"`{parameter.default!r}`",
                meanings[name],
            )


def _variables() -> Iterator[str]:
    off = "0 (or no, false, off) turns the training's side into a no-op"
    yield _row("`TRACKSIDE`", "the training", "`1`", off)
    moved = "the node-local directory: an absolute path on a tmpfs, the same for both"
    directory = "`/dev/shm/trackside-<uid>`"
    yield _row(f"`{SHM_DIR_VARIABLE}`", "training and daemon", directory, moved)


def _tables(path: str, kind: type[Any]) -> Iterator[str]:
    """Yield the table of a section's keys, then those of the sections in it."""
    hints = get_type_hints(kind)
    rule = path.removeprefix("alerts.")
    is_rule = rule != path
    if path:
        yield f"\n### [{path}]\n"
        name = f"[{rule}](../alerts.md#{rule})" if is_rule else ""
        yield f"Rule {name}: {_summary(kind)}\n" if is_rule else f"{_summary(kind)}\n"
    meanings = {} if is_rule else _meanings(kind)
    head = ("key", "type", "default") if is_rule else ("key", "type", "default", "meaning")
    yield _row(*head)
    yield _row(*("---" for _ in head))
    sections = [item for item in fields(kind) if is_dataclass(hints[item.name])]
    for item in fields(kind):
        if item not in sections:
            cells = [f"`{item.name}`", _toml_type(hints[item.name]), f"`{_toml(_default(item))}`"]
            yield _row(*cells, *([] if is_rule else [meanings[item.name]]))
    for item in sections:
        yield from _tables(f"{path}.{item.name}".lstrip("."), hints[item.name])


def _meanings(kind: type[Any]) -> dict[str, str]:
    """Return the docstring below each field.

    Raises:
        ValueError: a field has none.
    """
    described: dict[str, str] = {}
    members = griffe.load(kind.__module__)[kind.__name__].members
    for item in fields(kind):
        docstring = members[item.name].docstring
        if docstring is None and not is_dataclass(get_type_hints(kind)[item.name]):
            raise ValueError(f"{kind.__module__}.{kind.__name__}.{item.name} has no docstring")
        described[item.name] = "" if docstring is None else docstring.value
    return described


def _summary(kind: type[Any]) -> str:
    return (kind.__doc__ or "").partition("\n\n")[0].replace("``", "`")


def _default(item: "Field[Any]") -> object:
    return item.default_factory() if item.default_factory is not MISSING else item.default


def _toml_type(hint: object) -> str:
    return "list of texts" if get_origin(hint) is tuple else _TOML_TYPES[hint]  # type: ignore[index] # what has no name there fails the build


def _toml(value: object) -> str:
    return json.dumps(list(value) if isinstance(value, tuple) else value)


def _row(*cells: str) -> str:
    """Return a row; a bar in code needs no escape, and would show it."""
    texts = [" ".join(cell.replace("``", "`").split()) for cell in cells]
    shown = (text if text.startswith("`") else text.replace("|", "\\|") for text in texts)
    return f"| {' | '.join(shown)} |"
