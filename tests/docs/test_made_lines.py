"""Lines with `make` that take seconds, typed in a copy of the repository."""

import shutil
from pathlib import Path

import page
import pytest
from claimed_lines import MADE, lines_of
from documents import ROOT
from made import STAMPS, Copy

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(shutil.which("make") is None, reason="no make here"),
]


@pytest.fixture
def copy(tmp_path: Path) -> Copy:
    return Copy.make(tmp_path / "trackside")


def line_of(test: str) -> str:
    """Return the line that a test types, wherever and however often it stands."""
    (line,) = {line.text for line in lines_of(f"{MADE}::{test}")}
    return line


def test_what_is_set_up_is_not_installed_again(copy: Copy) -> None:
    stamps = [copy.directory / ".venv" / name for name in STAMPS]
    before = [stamp.stat().st_mtime_ns for stamp in stamps]

    said = copy.type(line_of("test_what_is_set_up_is_not_installed_again")).stdout

    assert "pip" not in said
    assert [stamp.stat().st_mtime_ns for stamp in stamps] == before


def test_pages_of_figures_are_made(copy: Copy) -> None:
    for name in page.PAGES:
        (copy.directory / "docs" / name).unlink()

    copy.type(line_of("test_pages_of_figures_are_made"))

    for name in page.PAGES:
        made = (copy.directory / "docs" / name).read_text(encoding="utf-8")
        assert made == (ROOT / "docs" / name).read_text(encoding="utf-8")
