"""docs/architecture.md tells the truth: it names every file of the house."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
# A folder that the page names as a whole: its files are plug-ins, or parts of one thing.
ROWS = "\n".join(line for line in PAGE.splitlines() if line.startswith("| `"))
WHOLE_FOLDERS = re.findall(r"`(?:[a-z_/]+/)?([a-z_]+)/(?:\*\.py)?`", ROWS)
FILES = sorted(
    path.relative_to(ROOT)
    for root in ("emitter", "daemon")
    for path in (ROOT / root).rglob("*.py")
    if path.name not in {"__init__.py", "__main__.py"}
)


@pytest.mark.parametrize("path", FILES, ids=str)
def test_file_has_its_place_on_the_page(path: Path) -> None:
    is_named = re.search(rf"`(?:[a-z_/]+/)?{re.escape(path.name)}`", ROWS) is not None

    assert is_named or path.parent.name in WHOLE_FOLDERS
