"""The code blocks and command lines of README and docs."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", "CONTRIBUTING.md", "SECURITY.md")
_BLOCK = re.compile(
    r"^( *)```(\w*)(?: title=\"([^\"\n]+)\")?\n(.*?)^ *```", re.DOTALL | re.MULTILINE
)
# Inline code may go on in the next line, not in the next paragraph.
_INLINE = re.compile(r"(?<!`)`([^`\n]+(?:\n[^`\n]+)*)`(?!`)")


@dataclass(frozen=True)
class Block:
    """One fenced block."""

    page: str
    """Relative to the repository."""

    line: int
    language: str
    text: str
    title: str | None = None
    """The name of the file that the reader saves it as; None for a block that is no whole file."""

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"


def pages() -> Iterator[Path]:
    yield from (ROOT / name for name in PAGES)
    yield from sorted((ROOT / "docs").rglob("*.md"))


def blocks(language: str | None = None) -> list[Block]:
    """Return the blocks of one language, or all."""
    found = []
    for page in pages():
        text = page.read_text(encoding="utf-8")
        for match in _BLOCK.finditer(text):
            indent, kind, title, body = match.groups()
            lines = [line.removeprefix(indent) for line in body.splitlines()]
            number = text.count("\n", 0, match.start()) + 1
            name = str(page.relative_to(ROOT))
            found.append(Block(name, number, kind, "\n".join(lines) + "\n", title))
    return [block for block in found if language is None or block.language == language]


def inline_code() -> Iterator[tuple[str, int, str]]:
    """Yield page, number of the line in which it begins, and text of all inline code."""
    for page in pages():
        whole = page.read_text(encoding="utf-8")
        between = _BLOCK.sub(lambda block: "\n" * block[0].count("\n"), whole)
        for match in _INLINE.finditer(between):
            number = between.count("\n", 0, match.start()) + 1
            yield str(page.relative_to(ROOT)), number, " ".join(match[1].split())


def command_lines(program: str) -> dict[str, list[str]]:
    """Return every way in which the pages call a program: place to its arguments.

    Lines of shell blocks, with or without a prompt, and inline code that begins with the program.
    """
    found: dict[str, list[str]] = {}
    in_blocks = (
        (block.page, number, line)
        for block in blocks()
        if block.language in {"sh", "bash"} or block.title == "output"
        for number, line in enumerate(block.text.splitlines(), start=block.line + 1)
    )
    for index, (page, number, line) in enumerate((*in_blocks, *inline_code())):
        arguments = _arguments(line, program)
        if arguments is not None:
            found[f"{page}:{number}:{index}"] = arguments
    return found


def _arguments(line: str, program: str) -> list[str] | None:
    line = re.sub(r"^\s*(\$ )?(sudo )?([A-Z_]+=\S+ )*(\S+/bin/)?", "", line)
    if not line.startswith(program + " "):
        return None
    try:
        words = shlex.split(line.replace("...", ""), comments=True)
    except ValueError:  # prose that begins with the program's name
        return None
    for end in ("|", ">", "&&", ";", "&"):
        if end in words:
            words = words[: words.index(end)]
    return words[1:]
