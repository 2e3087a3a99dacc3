"""Links of the pages lead somewhere on a forge, too, which shows the files as they are."""

import re

from documents import ROOT, pages

_LINK = re.compile(r"\]\((?![a-z]+:|#)([^)#\s]+)")


def test_every_link_leads_to_a_file() -> None:
    links = [(page, target) for page in pages() for target in _LINK.findall(page.read_text())]

    assert len(links) > 100
    dead = [
        f"{page.relative_to(ROOT)}: {to}" for page, to in links if not (page.parent / to).exists()
    ]
    assert dead == []
