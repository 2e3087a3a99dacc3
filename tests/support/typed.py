"""The `trackside` command as a user types it."""

import subprocess
import sys
from pathlib import Path

LIMIT_S = 120.0


def trackside(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    """Run it, in the environment of the test, and return what it said."""
    return subprocess.run(
        [sys.executable, "-P", "-m", "tracksided", *arguments],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
