"""Every shell line of the pages is claimed by a test; tests/support/claimed_lines.py has them."""

import pytest
from claimed_lines import BLOCKS, EVERYWHERE, NAMED, ShellLine, claim_of, is_there, shell_lines
from documents import ROOT

CLAIMS = (*BLOCKS, *EVERYWHERE, *NAMED)
LINES = tuple(shell_lines())


def test_every_line_is_claimed() -> None:
    assert len(LINES) > 150
    assert [f"{line.place} {line.text}" for line in LINES if claim_of(line) is None] == []


def test_every_test_that_claims_lines_is_there() -> None:
    assert [claim.test for claim in CLAIMS if not is_there(claim.test)] == []


def test_guides_name_the_pages_whose_lines_they_type() -> None:
    for line in LINES:
        claim = claim_of(line)
        if claim is not None and claim.test.endswith("_guides.py"):
            assert line.page in (ROOT / "tests" / claim.test).read_text(encoding="utf-8"), line


def test_every_claim_has_its_lines() -> None:
    used = [claim_of(line) for line in LINES]

    assert [claim for claim in CLAIMS if claim not in used] == []


@pytest.mark.parametrize(
    "line",
    [
        ShellLine("README.md", 1, "trackside frobnicate"),
        ShellLine("docs/report.md", 1, "git push --force"),
        ShellLine("docs/report.md", 1, "docker run IMAGE", is_inline=True),
        ShellLine("docs/new.md", 1, "kubectl apply -f pod.yaml"),
    ],
)
def test_a_line_that_nobody_claims_is_noticed(line: ShellLine) -> None:
    assert claim_of(line) is None
