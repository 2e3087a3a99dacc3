"""docs/architecture.md tells the truth: it names every file of the house. None is too long."""

import re
import subprocess
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
MAX_LINES = 400  # of one file with one job


@pytest.mark.parametrize("path", FILES, ids=str)
def test_file_has_its_place_on_the_page(path: Path) -> None:
    is_named = re.search(rf"`(?:[a-z_/]+/)?{re.escape(path.name)}`", ROWS) is not None

    assert is_named or path.parent.name in WHOLE_FOLDERS


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="only a checkout knows what is tracked")
def test_no_file_is_longer_than_the_limit() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    paths = [path for name in listed.stdout.splitlines() if (path := ROOT / name).is_file()]

    lines = {str(path.relative_to(ROOT)): path.read_bytes().count(b"\n") for path in paths}

    assert {name for name, count in lines.items() if count > MAX_LINES} == set()
    assert str(Path(__file__).relative_to(ROOT)) in lines
