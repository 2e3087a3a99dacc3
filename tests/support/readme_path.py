"""What the README tells a newcomer to type."""

import re
from dataclasses import dataclass

from documents import ROOT, blocks

_PACKAGES = re.compile(r"\(Debian: `(apt install [^`]+)`\)")


@dataclass(frozen=True, slots=True)
class ReadmePath:
    """From nothing to the tests, and the two lines for a training script."""

    packages: str
    demo: str
    test: str
    attach: str


def readme_path() -> ReadmePath:
    """Read the commands off the README.

    Raises:
        ValueError: the README no longer has them where they are looked for.
    """
    packages = _PACKAGES.search((ROOT / "README.md").read_text(encoding="utf-8"))
    of_readme = [block for block in blocks() if block.page == "README.md"]
    lines = [line for block in of_readme if not block.language for line in block.text.splitlines()]
    commands = [line.split("#")[0].strip() for line in lines if line.startswith("make ")]
    scripts = [block.text for block in of_readme if block.language == "python"]
    if packages is None or len(commands) != 2 or not scripts:
        raise ValueError(f"the README names {packages}, {commands}, {len(scripts)} Python blocks")
    demo, test = commands
    return ReadmePath(packages[1], demo, test, scripts[0])
