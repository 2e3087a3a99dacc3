"""Pictures of a run's steps: which there are, and their bytes."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from tracksided.web.plain_files import list_plain, open_plain

MAX_PICTURES = 200  # of one step
MAX_PICTURE_BYTES = 16 << 20

_FOLDER = re.compile(r"(?:epoch_[0-9]{1,12}_)?step_[0-9]{1,18}")
_PICTURE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,200}\.png")


@dataclass(frozen=True, slots=True)
class Picture:
    """One PNG file."""

    content: bytes
    version: str
    """Differs where the file was written anew."""


def is_step_folder(name: str) -> bool:
    """Whether this can be the folder of a step."""
    return _FOLDER.fullmatch(name) is not None


def picture_names(directory: Path, folder: str) -> list[str]:
    """Return the names of a step's pictures, sorted; empty where there are none.

    Raises:
        OSError: the folder cannot be read.
    """
    if not is_step_folder(folder):
        return []
    found = [name for name in list_plain(directory, folder) if _PICTURE.fullmatch(name)]
    return found[:MAX_PICTURES]


def read_picture(directory: Path, folder: str, name: str) -> Picture | None:
    """Read one picture; None where there is no such file, or it is no picture of ours.

    Raises:
        OSError: it cannot be read.
    """
    if not is_step_folder(folder) or _PICTURE.fullmatch(name) is None:
        return None
    descriptor = open_plain(directory, folder, name)
    if descriptor is None:
        return None
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if found.st_size > MAX_PICTURE_BYTES:
            return None
        content = file.read(MAX_PICTURE_BYTES)
    return Picture(content, f"{found.st_mtime_ns:x}-{found.st_size:x}")
