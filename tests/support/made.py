"""A copy of the repository with an environment that is set up, in which `make` is typed."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from documents import ROOT

STAMPS = ("runs", "installed")  # of the Makefile, the later one last
_LEFT_OUT = (".git", ".venv", ".nox", ".*_cache", ".hypothesis", "build", "dist", "__pycache__")


@dataclass(frozen=True)
class Copy:
    """One, with the environment of the tests as its own."""

    directory: Path

    @classmethod
    def make(cls, directory: Path) -> "Copy":
        shutil.copytree(ROOT, directory, ignore=shutil.ignore_patterns(*_LEFT_OUT), symlinks=True)
        environment = directory / ".venv"
        environment.mkdir()
        for entry in Path(sys.prefix).iterdir():
            if entry.name not in STAMPS:
                (environment / entry.name).symlink_to(entry)
        for name in STAMPS:
            (environment / name).touch()
        return cls(directory)

    def type(
        self, line: str, environ: Mapping[str, str] | None = None
    ) -> "subprocess.CompletedProcess[str]":
        """Type a line of a page, which has to succeed."""
        done = subprocess.run(
            ["bash", "-c", line],
            cwd=self.directory,
            env={**os.environ, **(environ or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done
