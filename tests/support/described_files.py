"""docs/reference/files.md as data: the keys of each object, and whether JSON keeps to them.

An object is a heading with a table below it. In the table, ``type`` is one of

======================== ================================================================
written                  JSON
======================== ================================================================
text                     a string
whole number, number     a number
true or false            one of these
object                   an object whose keys the page does not give
list of T                an array
map of T                 an object whose names are not fixed
pair of T and T          an array of two
T or null                T, or null
[name](#anchor)          the object below that heading
======================== ================================================================

T may be a plural. Behind a comma stands the unit. The last column holds ``null:`` or ``absent:``
where the value may be that, and says when; an empty cell means neither.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HEAD = ("key", "type", "meaning", "null or absent")
_HEADING = re.compile(r"^#+ (.+)$")
_CODE = re.compile(r"`([^`]+)`")
_LINK = re.compile(r"\[[^\]]+\]\(#([^)]+)\)")
_PLAIN: Mapping[str, tuple[type, ...]] = {
    "text": (str,),
    "whole number": (int,),
    "number": (int, float),
    "true or false": (bool,),
    "object": (dict,),
}


@dataclass(frozen=True)
class Key:
    """One row."""

    name: str
    type: str
    """Without the unit."""

    meaning: str
    may_be_null: bool
    may_be_absent: bool


@dataclass(frozen=True)
class Complaint:
    """A value that is not as the page says."""

    where: str
    """Path in the file."""

    what: str


Objects = Mapping[str, Mapping[str, Key]]
"""Anchor of the heading to the keys below it."""

Place = tuple[str, str]
"""Anchor and key."""


def read_page(path: Path) -> Objects:
    """Read all tables whose first row is `HEAD`."""
    objects: dict[str, dict[str, Key]] = {}
    anchor, is_inside = "", False
    for line in path.read_text(encoding="utf-8").splitlines():
        heading = _HEADING.match(line)
        cells = tuple(cell.strip() for cell in line.strip("|").split(" | "))
        if heading is not None:
            anchor = _anchor(heading[1])
        elif not line.startswith("|"):
            is_inside = False
        elif cells == HEAD:
            is_inside = True
            assert anchor not in objects, f"two tables below {anchor}"
            objects[anchor] = {}
        elif is_inside and not line.startswith("|---"):
            for key in _keys(line):
                assert key.name not in objects[anchor], f"{anchor}: {key.name} stands there twice"
                objects[anchor][key.name] = key
    return objects


class Reader:
    """Compares JSON with the page, and remembers which keys had a value."""

    def __init__(self, objects: Objects) -> None:
        self.objects = objects
        self.seen: set[Place] = set()
        """Keys that had a value other than null."""

    def check(self, anchor: str, document: Mapping[str, Any], path: str = "") -> list[Complaint]:
        """Return what is not as the page says, deep into the document."""
        keys = self.objects[anchor]
        unknown = [Complaint(f"{path}{key}", "not on the page") for key in document.keys() - keys]
        missing = [
            Complaint(f"{path}{name}", "absent, and the page does not say so")
            for name, key in keys.items()
            if name not in document and not key.may_be_absent
        ]
        wrong = [
            complaint
            for name, key in keys.items()
            if name in document
            for complaint in self._check_value((anchor, key), document[name], f"{path}{name}")
        ]
        return [*unknown, *missing, *wrong]

    def _check_value(self, place: tuple[str, Key], value: Any, path: str) -> Iterator[Complaint]:
        anchor, key = place
        if value is None:
            if not key.may_be_null:
                yield Complaint(path, "null, and the page does not say so")
            return
        self.seen.add((anchor, key.name))
        yield from self._check_type(key.type, value, path)

    def _check_type(self, kind: str, value: Any, path: str) -> Iterator[Complaint]:
        link = _LINK.fullmatch(kind)
        parts = _parts(kind, value)
        if link is not None and isinstance(value, dict):
            yield from self.check(link[1], value, f"{path}.")
        elif parts is not None:
            for name, inner, entry in parts:
                yield from self._check_type(inner, entry, f"{path}{name}")
        elif not _is_plain(kind, value):
            yield Complaint(path, f"{value!r:.40} is no {kind}")


def _parts(kind: str, value: Any) -> list[tuple[str, str, Any]] | None:
    """Return place, type and value of what a value of a kind holds; None where it holds nothing."""
    word, _, inner = kind.partition(" of ")
    match word, value:
        case "list", list():
            return [(f"[{index}]", _singular(inner), entry) for index, entry in enumerate(value)]
        case "map", dict():
            return [(f".{name}", _singular(inner), entry) for name, entry in value.items()]
        case "pair", list():
            pairs = zip(inner.split(" and "), value, strict=True)
            return [(f"[{index}]", *pair) for index, pair in enumerate(pairs)]
        case _:
            return None


def _is_plain(kind: str, value: Any) -> bool:
    """Whether a value is of a kind that holds no others; to Python, true is a number."""
    if kind.endswith(" or null"):
        return value is None or _is_plain(_singular(kind.removesuffix(" or null")), value)
    is_bool = kind == "true or false"
    return isinstance(value, bool) == is_bool and isinstance(value, _PLAIN.get(kind, ()))


def _singular(kind: str) -> str:
    """Return "number" for "numbers", "pair of ..." for "pairs of ..."."""
    word, space, rest = kind.partition(" of ")
    return word.removesuffix("s") + space + rest if space else kind.removesuffix("s")


def _keys(line: str) -> Iterator[Key]:
    """Read a row; several names in its first cell share the rest."""
    cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
    assert len(cells) == len(HEAD), line
    names, kind, meaning, missing = cells
    for name in _CODE.findall(names):
        yield Key(
            name=name,
            type=kind.split(", ")[0],
            meaning=meaning,
            may_be_null="null:" in missing,
            may_be_absent="absent:" in missing,
        )


def _anchor(heading: str) -> str:
    """Return what a link to a heading is called, on a forge and in the site."""
    kept = re.sub(r"[^\w\s-]", "", heading).strip().lower()
    return re.sub(r"[-\s]+", "-", kept)
