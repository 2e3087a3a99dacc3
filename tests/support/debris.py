"""What is left of files that were being written."""

from pathlib import Path


def debris(directory: Path) -> list[str]:
    """Return the names of hidden entries: what gets its real name later is hidden until then."""
    return sorted(path.name for path in directory.iterdir() if path.name.startswith("."))
