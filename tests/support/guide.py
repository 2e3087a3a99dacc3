"""A page of the guides as its reader follows it: files saved, command lines typed."""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from documents import blocks
from tensorboard_server import TensorBoardServer

BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class Guide:
    """One page, followed in a directory of the reader."""

    page: str
    """Relative to the repository."""

    directory: Path

    def save(self, title: str) -> Path:
        """Save a block as the file that it is."""
        path = self.directory / title
        path.write_text(file_text(self.page, title), encoding="utf-8")
        return path

    def type(
        self, line: str, environ: Mapping[str, str] | None = None, *, first_in_path: Path = BIN
    ) -> "subprocess.CompletedProcess[str]":
        """Type a line that stands on the page."""
        assert line in shell_lines(self.page)
        return self.run("bash", "-c", line, environ=environ, first_in_path=first_in_path)

    def tensorboard(self) -> TensorBoardServer:
        """Return TensorBoard as the page starts it, but on a port that is free."""
        (line,) = (line for line in shell_lines(self.page) if line.startswith("tensorboard "))
        program, option, logs = line.split()
        assert (program, option) == ("tensorboard", "--logdir")
        return TensorBoardServer(self.directory / logs, self.directory / "log", "false")

    def run(
        self,
        *command: str,
        environ: Mapping[str, str] | None = None,
        first_in_path: Path = BIN,
    ) -> "subprocess.CompletedProcess[str]":
        """Run a command in the directory, in the environment of the test."""
        path = f"{first_in_path}:{BIN}:{os.environ['PATH']}"
        return subprocess.run(
            command,
            cwd=self.directory,
            env={**os.environ, "PATH": path, **(environ or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=150,
            check=False,
        )


def file_text(page: str, title: str) -> str:
    """Return the text of a file that a page holds whole."""
    (block,) = (block for block in blocks() if (block.page, block.title) == (page, title))
    return block.text


def listings(page: str, title: str) -> list[str]:
    """Return what a page lists or quotes, by the kind: a tree, an output, a diagram."""
    return [block.text for block in blocks("text") if (block.page, block.title) == (page, title)]


def shell_lines(page: str) -> list[str]:
    """Return all lines of a page's shell blocks, without their comments."""
    return [line for name, _, line in numbered_shell_lines() if name == page]


def numbered_shell_lines() -> Iterator[tuple[str, int, str]]:
    """Yield page, number and text of each line in the shell blocks of all pages.

    Scripts that are saved as a file are no lines to type.
    """
    for block in blocks():
        if block.language not in {"sh", "bash"} or block.title is not None:
            continue
        for number, line in enumerate(block.text.splitlines(), start=block.line + 1):
            yield block.page, number, line.partition("  #")[0].strip()


def the_run(directory: Path) -> Path:
    """Return the outputs of the only run."""
    (run,) = (directory / "trackside_logs").iterdir()
    return run
