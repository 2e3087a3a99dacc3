"""Pictures of a run's steps and of the whole run: which there are, and their bytes."""

import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tracksided.web.plain_files import list_plain, open_plain

MAX_PICTURES = 200  # of one step
MAX_PICTURE_BYTES = 16 << 20
OVERVIEW_FOLDER = "overview"  # `tracksided.overview.FOLDER`, whose module knows the renderers
_SETTLED_NS = 10**9  # a folder that is older is not changed within one tick of its clock any more

_FOLDER = re.compile(r"(?:epoch_[0-9]{1,12}_)?step_[0-9]{1,18}")
_PICTURE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,200}\.png")


@dataclass(frozen=True, slots=True)
class Picture:
    """One PNG file."""

    content: bytes
    version: str
    """Differs where the file was written anew."""


class OverviewPictures:
    """Names and versions of the pictures of a whole run, which are drawn anew as it grows."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._seen_ns: int | None = None
        self._found: tuple[tuple[str, str], ...] = ()

    def read(self) -> tuple[tuple[str, str], ...]:
        """Return (name, version), sorted; files are looked at only where the folder changed.

        Raises:
            OSError: the folder cannot be read.
        """
        try:
            changed_ns = (self._directory / OVERVIEW_FOLDER).lstat().st_mtime_ns
        except (FileNotFoundError, NotADirectoryError):
            self._seen_ns, self._found = None, ()
            return ()
        if changed_ns != self._seen_ns:
            self._found = tuple(self._look())
            is_settled = time.time_ns() - changed_ns > _SETTLED_NS
            self._seen_ns = changed_ns if is_settled else None
        return self._found

    def _look(self) -> Iterator[tuple[str, str]]:
        names = (n for n in list_plain(self._directory, OVERVIEW_FOLDER) if _PICTURE.fullmatch(n))
        for name in list(names)[:MAX_PICTURES]:
            descriptor = open_plain(self._directory, OVERVIEW_FOLDER, name)
            if descriptor is not None:
                try:
                    yield name, _version(descriptor)
                finally:
                    os.close(descriptor)


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
    """Read one picture of a step or of the whole run; None where there is none of ours.

    Args:
        directory: the outputs of the run.
        folder: of a step, or `OVERVIEW_FOLDER`; anything else is none of ours.
        name: as a browser sent it.

    Raises:
        OSError: it cannot be read.
    """
    is_ours = is_step_folder(folder) or folder == OVERVIEW_FOLDER
    if not is_ours or _PICTURE.fullmatch(name) is None:
        return None
    descriptor = open_plain(directory, folder, name)
    if descriptor is None:
        return None
    with os.fdopen(descriptor, "rb") as file:
        if os.fstat(descriptor).st_size > MAX_PICTURE_BYTES:
            return None
        return Picture(file.read(MAX_PICTURE_BYTES), _version(descriptor))


def _version(descriptor: int) -> str:
    found = os.fstat(descriptor)
    return f"{found.st_mtime_ns:x}-{found.st_size:x}"
