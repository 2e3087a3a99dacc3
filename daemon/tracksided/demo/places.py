"""Where a demo writes: its output directory, and shared memory of its own."""

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from tracksided.errors import OutputError

DEFAULT_NAME = "trackside_demo"
MAX_NUMBER = 10_000  # far more demos than anyone keeps


def create_output(explicit: Path | None, parent: Path) -> Path:
    """Create the output directory and return it, absolute.

    Without an explicit path it is the first free one of ``trackside_demo``,
    ``trackside_demo-2``, ... in ``parent``; an explicit one may exist if it is empty.

    Raises:
        OutputError: the path is taken, or cannot be created.
    """
    if explicit is None:
        return _create_next_free(parent)
    path = explicit.absolute()
    try:
        path.mkdir(parents=True, exist_ok=True)
        is_empty = next(path.iterdir(), None) is None
    except FileExistsError as error:
        raise OutputError(f"{explicit} is a file; name a new or empty directory") from error
    except OSError as error:
        raise OutputError(f"cannot use {explicit}: {error.strerror}") from error
    if not is_empty:
        raise OutputError(f"{explicit} is not empty; name a new or empty directory")
    return path


@contextlib.contextmanager
def private_shared_memory(root: Path) -> Iterator[Path]:
    """Create a node-local directory for one demo, and remove it with all it holds.

    The user's own daemon neither sees it nor is disturbed by it.

    Args:
        root: a file system in memory; the path stays short, because that of a socket in it
            holds 107 bytes.

    Raises:
        OutputError: the directory cannot be created.
    """
    path = root / f"trackside-{os.getuid()}-demo-{secrets.token_hex(4)}"
    try:
        path.mkdir(mode=0o700)
    except OSError as error:
        raise OutputError(f"cannot create {path}: {error.strerror}") from error
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _create_next_free(parent: Path) -> Path:
    for number in range(1, MAX_NUMBER):
        path = parent.absolute() / (DEFAULT_NAME if number == 1 else f"{DEFAULT_NAME}-{number}")
        try:
            path.mkdir()
        except FileExistsError:
            continue
        except OSError as error:
            raise OutputError(
                f"cannot create {path}: {error.strerror}; choose a place with --out"
            ) from error
        return path
    raise OutputError(f"no free name for {DEFAULT_NAME} in {parent}; choose one with --out")
