"""What measured numbers depend on: the machine, its load, versions."""

import hashlib
import importlib.metadata
import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
SHOWN_DIGITS = 12  # of a SHA-256
RESULTS = "benchmarks/results.json", "docs/performance.md", "docs/scaling.md", "docs/images"
_NOT_RESULTS = (".", *(f":(exclude){path}" for path in RESULTS))


def machine() -> dict[str, Any]:
    """Describe the machine by what does not change while it runs."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    models = (line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "cpu": next(models, platform.machine()),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(pages / 2**30, 1),
        "kernel": platform.release(),
    }


def commit(root: Path = ROOT) -> str | None:
    """Return the commit that is measured, marked if files differ from it; None outside of git.

    What was measured before, and the pages of it, make no difference.
    """
    try:
        head = _git(root, "rev-parse", "--short", "HEAD")
        changed = _git(root, "status", "--porcelain", "--untracked-files=no", "--", *_NOT_RESULTS)
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{head}-dirty" if changed else head


def _git(root: Path, *words: str) -> str:
    asked = ["git", "-C", str(root), *words]
    return subprocess.run(asked, check=True, capture_output=True, text=True).stdout.strip()


def load_average() -> list[float]:
    """Return the load of the last 1, 5 and 15 minutes."""
    return [round(load, 2) for load in os.getloadavg()]


def versions(packages: Iterable[str]) -> dict[str, str | None]:
    """Return Python's version and those of packages; None: not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    return found


def script_version(project: str, script: Path, environment: Mapping[str, str]) -> str:
    """Name a script of others by its digest, with the version that its project states, if any."""
    question = f"import {project}; print(getattr({project}, '__version__', ''))"
    answer = subprocess.run(
        [sys.executable, "-c", question],
        check=True,
        capture_output=True,
        text=True,
        env={**environment},
    )
    digest = hashlib.sha256(script.read_bytes()).hexdigest()[:SHOWN_DIGITS]
    return f"{answer.stdout.strip()} {script.name}, SHA-256 {digest}".strip()
