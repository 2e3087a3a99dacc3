"""What a hostile checkpoint holds."""

import os
from collections.abc import Callable
from pathlib import Path


class Evil:
    """Whoever unpickles it runs a command, which makes a file."""

    def __init__(self, marker: Path) -> None:
        self._marker = marker

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self._marker}",)
