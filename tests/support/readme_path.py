"""What the README tells a newcomer to type."""

import re
from dataclasses import dataclass

from documents import ROOT, blocks
from guide import shell_lines

ADDRESS = "ADDRESS"  # what a reader puts the repository's own in the place of
_PACKAGES = re.compile(r"\(Debian: `(apt install [^`]+)`\)")


@dataclass(frozen=True, slots=True)
class ReadmePath:
    """From nothing to the tests, and the two lines for a training script."""

    packages: str
    clone: str
    demo: str
    test: str
    attach: str


def readme_path() -> ReadmePath:
    """Read the commands off the README.

    Raises:
        ValueError: the README no longer has them where they are looked for.
    """
    packages = _PACKAGES.search((ROOT / "README.md").read_text(encoding="utf-8"))
    lines = shell_lines("README.md")
    commands = [line for line in lines if line.startswith(("git clone ", "make "))]
    scripts = [block.text for block in blocks("python") if block.page == "README.md"]
    if packages is None or len(commands) != 3 or not scripts:
        raise ValueError(f"the README names {packages}, {commands}, {len(scripts)} Python blocks")
    clone, demo, test = commands
    return ReadmePath(packages[1], clone, demo, test, scripts[0])
