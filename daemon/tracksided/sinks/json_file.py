"""JSON for others to read: strict, and whole or not there at all."""

import contextlib
import errno
import json
import math
import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from tracksided.durable import sync_directory
from tracksided.sinks.refusal import output_error

TEMPORARY_SUFFIX = ".trackside-tmp"
AS_UMASK_SAYS = 0o666  # what `open` asks for
MAX_OBJECT_BYTES = 16 << 20  # of a file that is read whole; a run's settings have at most 1 MiB
MAX_DEPTH = 100  # of what is read and may be written again; settings nest up to 64 deep
_SAFE = os.O_CLOEXEC | os.O_NONBLOCK  # opening a pipe that lies there must not wait

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"


def plain(value: object) -> Json:
    """Turn a value into what strict JSON can hold; NaN and infinity become null.

    Raises:
        TypeError: a value has no place in JSON.
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, Mapping):
        return plain_object(value)
    if isinstance(value, Sequence | np.ndarray):
        return [plain(entry) for entry in value]
    raise TypeError(f"{type(value).__name__} {value!r:.80} cannot be written as JSON")


def plain_object(document: Mapping[str, object]) -> dict[str, Json]:
    """Turn a mapping into a JSON object; see `plain`."""
    return {str(key): plain(entry) for key, entry in document.items()}


def encode(value: object, *, indent: int | None = None) -> bytes:
    """Encode as UTF-8 JSON with a final newline."""
    return json.dumps(plain(value), allow_nan=False, indent=indent).encode() + b"\n"


def write_json(path: Path, document: Mapping[str, object], *, mode: int = AS_UMASK_SAYS) -> None:
    """Replace a file by a JSON document, durably; see `write_whole`.

    Raises:
        OutputError: it cannot be written; what was there stays.
    """
    write_whole(path, encode(document, indent=2), mode=mode)


def write_whole(path: Path, content: bytes, *, mode: int = AS_UMASK_SAYS) -> None:
    """Replace a file, durably; see `replace_file`.

    Raises:
        OutputError: it cannot be written; what was there stays.
    """
    try:
        replace_file(path, content, mode=mode)
    except OSError as error:
        raise output_error(path, error) from error


def replace_file(path: Path, content: bytes, *, mode: int = AS_UMASK_SAYS) -> None:
    """Replace a file, durably, for those who know what to do where that fails.

    Args:
        path: of the file.
        content: all of it.
        mode: permission bits, of which the umask takes its own away.

    Raises:
        OSError: it cannot be written; what was there stays.
    """
    temporary = path.with_name(path.name + TEMPORARY_SUFFIX)
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
        with os.fdopen(open_regular(temporary, flags, mode), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_directory(path.parent)
    except OSError:
        with contextlib.suppress(OSError):  # debris of a full disk; the next write replaces it
            temporary.unlink()
        raise


def read_json(path: Path) -> dict[str, Json] | None:
    """Read a JSON object; None where there is no file or it holds anything else.

    Anything else is also what has more than `MAX_OBJECT_BYTES` or nests deeper than `MAX_DEPTH`.
    """
    try:
        with os.fdopen(open_regular(path, os.O_RDONLY), "rb") as file:
            content = file.read(MAX_OBJECT_BYTES + 1)
            document = parse_json(content) if len(content) <= MAX_OBJECT_BYTES else None
    except (OSError, ValueError):
        return None
    return document if isinstance(document, dict) and is_shallow(document) else None


def parse_json(content: bytes) -> Any:
    """Parse JSON that anybody may have written.

    Raises:
        ValueError: it is no JSON, or nests too deep or has too long numbers for Python.
    """
    try:
        return json.loads(content)
    except RecursionError as error:
        raise ValueError("it nests too deep") from error


def is_shallow(value: Json, max_depth: int = MAX_DEPTH) -> bool:
    """Tell whether a value nests no deeper than that, so that `plain` and `encode` can take it."""
    if not isinstance(value, dict | list):
        return True
    entries = value.values() if isinstance(value, dict) else value
    return max_depth > 0 and all(is_shallow(entry, max_depth - 1) for entry in entries)


def open_regular(path: Path, flags: int, mode: int = AS_UMASK_SAYS) -> int:
    """Open a file and return its descriptor; what else lies there is refused without waiting.

    Args:
        path: of the file.
        flags: of `os.open`.
        mode: permission bits of a file that is made.

    Raises:
        OSError: it cannot be opened; ENXIO where it is a pipe, a socket or a device.
    """
    descriptor = os.open(path, flags | _SAFE, mode)
    kind = os.fstat(descriptor).st_mode
    if stat.S_ISREG(kind):
        return descriptor
    os.close(descriptor)
    number = errno.EISDIR if stat.S_ISDIR(kind) else errno.ENXIO
    raise OSError(number, os.strerror(number), str(path))


def is_in_place(path: Path, descriptor: int) -> bool:
    """Tell whether an open file still lies under its name; raises OSError."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
