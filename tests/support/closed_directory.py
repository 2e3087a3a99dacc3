"""A directory that may not be entered, for root as well: its permissions would stop only others."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


def close_directory(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let what the kernel is asked below a directory end in "permission denied"."""

    def refusing(function: Callable[..., Any]) -> Callable[..., Any]:
        def refuse(name: object, *args: object, **kwargs: object) -> Any:
            if path in Path(os.fsdecode(name) if isinstance(name, bytes) else str(name)).parents:
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(name))
            return function(name, *args, **kwargs)

        return refuse

    monkeypatch.setattr(os, "stat", refusing(os.stat))
    monkeypatch.setattr(os, "open", refusing(os.open))
