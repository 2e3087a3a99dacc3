"""Docstrings of all modules, also of those that the reference does not show.

A public function names what it raises. One that takes three or more values names those of which
neither type nor name says enough: a bare number, text, array or callable. A docstring may point
to another instead: see `Store.entries`.
"""

import ast
import builtins
import re
from collections.abc import Iterator

import griffe
import pytest
from documents import ROOT

pytestmark = pytest.mark.integration

MANY = 3
_BARE = re.compile(
    r"(?:\w+\.)*(?:int|float|str|bytes|memoryview|\w*Array|\w*Tensor|Indices|NDArray\[.*\]"
    r"|Callable\[.*\]|(?:tuple|Sequence|Iterable|Mapping)\[(?:str|int|float|bool)\b.*\])"
    r"(?: \| None)?"
)
# A unit or a count in the name, or a word that means one thing everywhere.
_TELLING = re.compile(
    r"num_\w+|nbytes|\w+_(?:s|seconds|ms|ns|px|bytes|percent|c)"
    r"|step|rank|run|now|seed|batch_size|path|name|args|kwargs"
)
_POINTS = re.compile(r"\b[Ss]ee `")
_FACTORIES = {"output_error": "OutputError"}  # functions that make the error


@pytest.fixture(scope="module")
def functions() -> list[griffe.Function]:
    loader = griffe.GriffeLoader(search_paths=[ROOT / "emitter", ROOT / "daemon"])
    return [
        function
        for package in ("trackside", "tracksided")
        for function in _public(loader.load(package))
    ]


@pytest.fixture(scope="module")
def bases() -> dict[str, set[str]]:
    """Name of an error to the names that stand for it."""
    loader = griffe.GriffeLoader(search_paths=[ROOT / "emitter", ROOT / "daemon"])
    ours = {
        name: {name, *(base.name for base in found.mro())}
        for module in ("trackside.errors", "tracksided.errors", "tracksided.checkpoints.source")
        for name, found in loader.load(module).classes.items()
    }
    theirs = {
        name: {base.__name__ for base in found.__mro__} - {"Exception", "BaseException", "object"}
        for name, found in vars(builtins).items()
        if isinstance(found, type) and issubclass(found, BaseException)
    }
    return theirs | ours


def test_public_functions_name_what_they_raise(
    functions: list[griffe.Function], bases: dict[str, set[str]]
) -> None:
    assert len(functions) > 900

    assert [found for function in functions for found in unnamed(function, bases)] == []


def test_what_a_signature_leaves_open_is_explained(functions: list[griffe.Function]) -> None:
    assert [found for function in functions for found in unexplained(function)] == []


def test_what_is_missing_is_seen(bases: dict[str, set[str]]) -> None:
    code = (
        'def f(a: float, b: "Path", width_px: int, k: Callable[[], int]):\n'
        '    """Say nothing of ``k``."""\n'
        "    try:\n        raise KeyError(a)\n    except KeyError:\n        raise ValueError(b)\n"
        "def g(a: int):\n    '''Do.\n\n    Raises:\n        OSError: it is.\n    '''\n"
        "    raise FileExistsError(a)\n"
        "def h(a: int, b: int, c: int):\n    '''Do; see `g`.'''\n    raise ValueError(a)\n"
    )
    with griffe.temporary_visited_module(code, module_name="m") as module:
        found = list(_public(module))

        errors = [unnamed(function, bases) for function in found]
        values = [unexplained(function) for function in found]

    assert errors == [["m.f raises ValueError"], [], []]
    assert values == [["m.f(a)"], [], []]


def unnamed(function: griffe.Function, bases: dict[str, set[str]]) -> list[str]:
    text = _text(function)
    if _POINTS.search(text):
        return []
    body = ast.parse(function.source).body[0]
    raised = sorted({_FACTORIES.get(name, name) for name in _raised(body.body)})
    return [
        f"{function.path} raises {name}"
        for name in raised
        if name[0].isupper() and not _names(text, bases.get(name, {name}))
    ]


def unexplained(function: griffe.Function) -> list[str]:
    text = _text(function)
    taken = [item for item in function.parameters if item.name not in {"self", "cls"}]
    if len(taken) < MANY or _POINTS.search(text):
        return []
    return [
        f"{function.path}({item.name})"
        for item in taken
        if _BARE.fullmatch(str(item.annotation).strip("'\""))
        and not _TELLING.fullmatch(item.name)
        and not item.name.startswith("_")
        and not _names(text, {item.name})
    ]


def _public(item: griffe.Object) -> Iterator[griffe.Function]:
    for name, member in item.members.items():
        is_hidden = name.startswith("_") and name != "__init__"
        if member.is_alias or is_hidden:
            continue
        if member.is_module or member.is_class:
            yield from _public(member)
        elif member.is_function and not _is_documented_elsewhere(member):
            yield member


def _is_documented_elsewhere(function: griffe.Function) -> bool:
    """Whether it is a command, whose options have help, or what a dataclass makes of fields."""
    is_made = function.name == "__init__" and "dataclass" in function.parent.labels
    return is_made or any("command" in str(item.value) for item in function.decorators)


def _text(function: griffe.Function) -> str:
    """Return its docstring; that of a class tells of its construction, too."""
    documented = [function, *([function.parent] if function.name == "__init__" else [])]
    return "\n".join(item.docstring.value for item in documented if item.docstring)


def _names(text: str, names: set[str]) -> bool:
    return any(re.search(rf"\b{name}\b", text) for name in names)


def _raised(body: list[ast.stmt]) -> Iterator[str]:
    """Yield what statements raise by name, less what stands where something is caught."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            continue
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            if isinstance(node.exc.func, ast.Name):
                yield node.exc.func.id
            continue
        handlers = getattr(node, "handlers", [])
        cases = getattr(node, "cases", [])
        blocks = [part.body for part in (*handlers, *cases)]
        blocks += [getattr(node, name, []) for name in ("orelse", "finalbody")]
        blocks += [] if handlers else [getattr(node, "body", [])]
        for block in blocks:
            yield from _raised(block)
