"""What no linter counts: files stay short, and whatever silences a checker says why."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAX_LINES = 400  # of one file with one job
# Said right: "noqa: CODE, CODE - reason", "type: ignore[code] # reason".
SILENT = re.compile(r"# (?:noqa|type: ignore)\b(?!: [A-Z0-9, ]+ - \S|\[[a-z, -]+\] *[#-] ?\S).*")

pytestmark = pytest.mark.skipif(
    not (ROOT / ".git").exists(), reason="only a checkout knows what is tracked"
)


@pytest.fixture(scope="module")
def sources() -> dict[str, str]:
    listed = subprocess.run(
        ["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    paths = (ROOT / name for name in listed.stdout.splitlines())
    found = {
        path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
        for path in paths
        if path.is_file()
    }
    assert Path(__file__).relative_to(ROOT).as_posix() in found
    return found


def test_no_file_is_longer_than_the_limit(sources: dict[str, str]) -> None:
    assert [name for name, text in sources.items() if text.count("\n") > MAX_LINES] == []


def test_whatever_silences_a_checker_says_why(sources: dict[str, str]) -> None:
    silent = [
        f"{name}: {match[0]}"
        for name, text in sources.items()
        for match in SILENT.finditer(text)
        if not name.endswith("test_style.py")
    ]

    assert silent == []
