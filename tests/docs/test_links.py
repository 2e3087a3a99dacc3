"""Links of the pages lead somewhere on a forge, too, which shows the files as they are."""

import re
from collections.abc import Iterator
from pathlib import Path

from documents import ROOT, pages

_LINK = re.compile(r"\]\((?![a-z]+:|#)([^)#\s]+)")


def test_every_link_leads_to_a_file() -> None:
    links = [(page, target) for page in pages() for target in _LINK.findall(page.read_text())]

    assert len(links) > 100
    dead = [
        f"{page.relative_to(ROOT)}: {to}" for page, to in links if not (page.parent / to).exists()
    ]
    assert dead == []


def linked_from(page: Path) -> Iterator[Path]:
    for target in _LINK.findall(page.read_text(encoding="utf-8")):
        yield (page.parent / target).resolve()


def test_every_page_is_found_from_the_readme() -> None:
    """By links alone, as on a forge; the navigation is the site's, and so are docstrings."""
    found, ahead = set(), [ROOT / "README.md"]
    while ahead:
        page = ahead.pop()
        if page not in found and page.suffix == ".md":
            found.add(page)
            ahead += linked_from(page)

    hidden = [page for page in pages() if page not in found]
    made = [page for page in hidden if "\n::: " in page.read_text(encoding="utf-8")]
    assert hidden == made
