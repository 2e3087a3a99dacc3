"""A copy of the project that is extended as docs/extending.md says, command by command."""

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from documents import ROOT, blocks

PAGE = "docs/extending.md"
_COPIED = (
    "benchmarks",
    "daemon",
    "docs",
    "emitter",
    "examples",
    "mkdocs.yml",
    "pyproject.toml",
    "systemd",
    "tests",
)


@dataclass(frozen=True)
class House:
    """The copy."""

    root: Path

    @property
    def environ(self) -> Mapping[str, str]:
        """An environment in which this copy is imported, not the project."""
        path = os.pathsep.join(str(self.root / name) for name in ("emitter", "daemon"))
        return {**os.environ, "PYTHONPATH": path}

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a Python program of the house."""
        return subprocess.run(
            [sys.executable, *command],
            cwd=self.root,
            env=self.environ,
            capture_output=True,
            text=True,
            check=False,
        )


def build(root: Path) -> House:
    """Copy the project and do what the page says."""
    for name in _COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, root / name)
    for block in blocks():
        if block.page != PAGE:
            continue
        if block.language == "sh" and block.text.startswith("cp "):
            _, source, directory = shlex.split(block.text)
            shutil.copy(root / source, root / directory)
        elif block.language == "diff":
            for path, hunk in hunks(block.text):
                file = root / path
                file.write_text(applied(file.read_text(encoding="utf-8"), hunk, path), "utf-8")
    return House(root)


def hunks(diff: str) -> Iterator[tuple[str, list[str]]]:
    """Yield path and lines of each hunk."""
    path, hunk = "", list[str]()
    for line in diff.splitlines():
        if line.startswith("+++ ") or line == "@@":
            if hunk:
                yield path, hunk
            hunk = []
            path = line.removeprefix("+++ ") if line != "@@" else path
        else:
            hunk.append(line)
    yield path, hunk


def applied(text: str, hunk: list[str], place: str) -> str:
    """Change a text: each line of context stands below the one before, and once.

    What is added stands behind the context, or the removed line, above it.
    """
    lines = text.split("\n")
    at = 0
    for entry in hunk:
        mark, line = entry[:1], entry[1:]
        if mark == "+":
            lines.insert(at, line)
            at += 1
            continue
        found = [index for index in range(at, len(lines)) if lines[index] == line]
        assert found, f"{place} has no line {line!r}"
        at = found[0]
        if mark == "-":
            del lines[at]
        else:
            at += 1
    return "\n".join(lines)
