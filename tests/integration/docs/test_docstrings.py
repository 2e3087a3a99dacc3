"""The docstrings of all that the reference shows say what a signature cannot."""

import re
from collections.abc import Iterator

import griffe
import pytest
from documents import ROOT

pytestmark = pytest.mark.integration

_DIRECTIVE = re.compile(r"^::: (\S+)\n(?:    options:\n(?:      .*\n)*)?", re.MULTILINE)
_MEMBERS = re.compile(r"members: \[(.*)\]")
# What a framework calls, with arguments of its own, and what users never make themselves.
_FOREIGN = re.compile(r"trackside\.integrations\.(transformers|lightning)\.\w+\.on_")
_INTERNAL = {"trackside.session.Session.__init__", "trackside.session.Session.recorder_type"}


def _shown() -> list[str]:
    names: list[str] = []
    for page in sorted((ROOT / "docs/reference").glob("*.md")):
        for match in _DIRECTIVE.finditer(page.read_text(encoding="utf-8")):
            members = _MEMBERS.search(match[0])
            chosen = members[1].split(", ") if members else []
            names += [f"{match[1]}.{name}" for name in chosen] or [match[1]]
    return names


def _public(item: griffe.Object) -> Iterator[griffe.Object]:
    yield item
    for name, member in item.members.items() if item.is_module or item.is_class else ():
        is_hidden = name.startswith("_") and name != "__init__"
        if not (member.is_alias or member.is_module or is_hidden):
            yield from _public(member)


@pytest.fixture(scope="module")
def items() -> list[griffe.Object]:
    loader = griffe.GriffeLoader(search_paths=[ROOT / "emitter", ROOT / "daemon"])
    for package in ("trackside", "tracksided"):
        loader.load(package)
    loader.resolve_aliases()
    found = [loader.modules_collection[name] for name in _shown()]
    return [
        item
        for entry in found
        for item in _public(entry.final_target if entry.is_alias else entry)
        if item.path not in _INTERNAL
    ]


def _text(item: griffe.Object) -> str:
    return item.docstring.value if item.docstring else ""


def _documented(item: griffe.Function) -> set[str]:
    sections = item.docstring.parse("google", warnings=False) if item.docstring else []
    kind = griffe.DocstringSectionKind.parameters
    return {entry.name for part in sections if part.kind is kind for entry in part.value}


def test_the_reference_shows_what_there_is(items: list[griffe.Object]) -> None:
    paths = {item.path for item in items}

    assert len(paths) > 400
    assert {"trackside.session.Session.log", "tracksided.stages.Renderer.render"} <= paths


def test_everything_has_a_docstring(items: list[griffe.Object]) -> None:
    needed = [item for item in items if item.name != "__init__" and not item.is_attribute]

    assert [item.path for item in needed if not _text(item)] == []


def test_every_parameter_is_explained(items: list[griffe.Object]) -> None:
    missing = []
    for item in items:
        if not item.is_function or _FOREIGN.match(item.path) or not item.docstring:
            continue
        takes_keywords = any("show_keywords" in str(d.value) for d in item.decorators)
        known = _documented(item) | {"self", "cls"} | ({"keywords"} if takes_keywords else set())
        names = [parameter.name for parameter in item.parameters]
        missing += [
            f"{item.path}({name})"
            for name in names
            if name not in known and not name.startswith("_")
        ]

    assert missing == []


def test_every_field_is_explained(items: list[griffe.Object]) -> None:
    classes = [item for item in items if item.is_class and "dataclass" in item.labels]
    assert len(classes) > 30

    silent = [
        field.path
        for item in classes
        for field in item.attributes.values()
        if "property" not in field.labels and not field.name.startswith("_") and not _text(field)
    ]
    assert silent == []


def test_every_array_says_its_shape(items: list[griffe.Object]) -> None:
    arrays = [item for item in items if item.is_attribute and "Array" in str(item.annotation)]
    assert len(arrays) > 15

    assert [item.path for item in arrays if not re.search(r"\[[^\]]+\]", _text(item))] == []


def test_every_error_that_is_raised_is_named(items: list[griffe.Object]) -> None:
    """Errors of a base that is named count; those that are raised again need no name."""
    errors = griffe.GriffeLoader(search_paths=[ROOT / "emitter", ROOT / "daemon"])
    tree = {
        name: {name, *(base.name for base in found.mro())}
        for module in ("trackside.errors", "tracksided.errors", "tracksided.checkpoints.source")
        for name, found in errors.load(module).classes.items()
    }
    unnamed = []
    for item in items:
        if not item.is_function or not item.docstring:
            continue
        raised = set(re.findall(r"^\s+raise (\w+)\(", item.source, flags=re.MULTILINE))
        unnamed += [
            f"{item.path} raises {name}"
            for name in raised
            if not any(f"{known}:" in _text(item) for known in tree.get(name, {name}))
        ]

    assert unnamed == []
