"""docs/architecture.md tells the truth: it names every file of the house, and no other."""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
EMITTER_NEEDS = {"torch", "numpy", "zmq", "msgpack"}  # invariant 3


def _rows() -> Iterator[str]:
    """Yield what the first column names, as paths from the root of the repository.

    A heading names the folder of its table. In a row a bare name lies beside the last path.
    """
    root = ""
    for line in PAGE.splitlines():
        if line.startswith("#"):
            root = found[1] if (found := re.search(r"`(.+)`", line)) else ""
        elif line.startswith("| `"):
            folder = ""
            for name in re.findall(r"`([^`]+)`", line.split(" | ")[0]):
                folder = name[: name.rindex("/") + 1] if "/" in name else folder
                yield root + (name if "/" in name else folder + name)


def _files() -> Iterator[str]:
    folders = ("emitter", "daemon", "benchmarks", "docs/hooks", "examples", "systemd", "tests")
    for folder in folders:
        for path in (ROOT / folder).rglob("*"):
            is_source = path.suffix in {".py", ".jinja"} or folder == "systemd"
            if path.is_file() and is_source and path.name not in {"__init__.py", "__main__.py"}:
                yield path.relative_to(ROOT).as_posix()


ROWS = list(_rows())
# A folder that the page names as a whole: its files are plug-ins, or parts of one thing.
FOLDERS = {row for row in ROWS if row.endswith("/")}
PATTERNS = [row for row in ROWS if "*" in row]
FILES = sorted(_files())
PACKAGED = [path for path in FILES if path.startswith(("emitter/", "daemon/"))]
EMITTER_FILES = [
    path
    for path in PACKAGED
    if path.startswith("emitter/") and not path.startswith("emitter/trackside/integrations/")
]


def test_every_file_has_its_place_on_the_page() -> None:
    def is_named(path: str) -> bool:
        return (
            path in ROWS
            or any(f"{parent}/" in FOLDERS for parent in Path(path).parents)
            or any(Path(path).match(pattern) for pattern in PATTERNS)
        )

    assert [path for path in FILES if not is_named(path)] == []


def test_what_the_page_names_is_there() -> None:
    assert len(ROWS) > 200
    assert [row for row in ROWS if not any(ROOT.glob(row))] == []


def test_the_page_names_each_file_once() -> None:
    assert [row for row in ROWS if ROWS.count(row) > 1] == []


def test_only_the_places_on_the_page_catch_everything() -> None:
    named = {
        root + name
        for number, root in (("2", "emitter/trackside/"), ("6", "daemon/tracksided/"))
        for line in re.findall(rf"\n{number}\. .* A broad `except Exception` stands (.*)", PAGE)
        for name in re.findall(r"`(\S+\.py)`", line)
    }

    assert {path for path in PACKAGED if _catches_everything(path)} == named


@pytest.mark.parametrize("path", EMITTER_FILES)
def test_emitter_imports_no_more_than_a_trainer_has(path: str) -> None:
    imported: set[str] = set()
    for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            imported.add(node.module.partition(".")[0])

    assert imported <= EMITTER_NEEDS | {"trackside"} | set(sys.stdlib_module_names)


def _catches_everything(path: str) -> bool:
    """Whether a broad handler keeps what it catches. One that raises again only tidies up."""
    source = (ROOT / path).read_text(encoding="utf-8")
    if "Exception" not in source:
        return False
    handlers = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ExceptHandler))
    return any(
        (handler.type is None or ast.unparse(handler.type) in {"Exception", "BaseException"})
        and not any(isinstance(node, ast.Raise) for node in ast.walk(handler))
        for handler in handlers
    )
