"""The page needs nothing from elsewhere, and nothing that its own policy forbids."""

import re
from pathlib import Path

import pytest

from tracksided.web.application import STATIC

OWN = sorted(
    path
    for path in STATIC.rglob("*")
    if path.suffix in {".html", ".css", ".js", ".svg"} and "vendor" not in path.parts
)
MAX_LINES = 300


def names(path: Path) -> str:
    return str(path.relative_to(STATIC))


@pytest.mark.parametrize("path", OWN, ids=names)
def test_nothing_is_loaded_from_elsewhere(path: Path):
    text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")

    assert not re.search(r"(https?:)?//[a-z0-9-]+\.[a-z]", text)


@pytest.mark.parametrize("path", OWN, ids=names)
def test_texts_never_become_markup_or_code(path: Path):
    text = path.read_text(encoding="utf-8")

    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|Function\(", text
    )
    assert not re.search(r"<script(?![^>]* src=)|<style|\son[a-z]+=|\sstyle=", text)


@pytest.mark.parametrize("path", OWN, ids=names)
def test_a_file_of_the_page_is_short_and_plain(path: Path):
    text = path.read_text(encoding="utf-8")

    assert text.isascii()
    assert len(text.splitlines()) <= MAX_LINES


def test_every_part_that_a_script_asks_for_is_on_the_page():
    page = (STATIC / "index.html").read_text(encoding="utf-8")
    scripts = "".join(path.read_text(encoding="utf-8") for path in OWN if path.suffix == ".js")

    asked = set(re.findall(r'byId\("([^"]+)"\)', scripts))

    assert asked - set(re.findall(r'\sid="([^"]+)"', page)) == set()


def test_uplot_keeps_its_licence_beside_it():
    vendored = STATIC / "vendor" / "uplot"

    assert "Copyright" in (vendored / "LICENSE").read_text(encoding="utf-8")
    assert "uPlot (v1.6.32)" in (vendored / "uPlot.iife.min.js").read_text(encoding="utf-8")
