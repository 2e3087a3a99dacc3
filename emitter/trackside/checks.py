"""What each setting takes: from whatever was given to one type, or a refusal with its mend."""

import operator
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import cast

from trackside.environment import refusal
from trackside.wire.layout import MAX_CAPACITY_BYTES, MIN_CAPACITY_BYTES
from trackside.wire.segment import MAX_RUN_CHARS, RUN_PATTERN

PICTURES = (
    "heatmap",
    "statistics",
    "multi_head",
    "layer_comparison",
    "gradient_flow",
    "animation",
    "entropy",
)
MAX_CONFIG_DEPTH = 16  # deeper values, and values that contain themselves, become text


def _index(value: object) -> int | None:
    """Return an integer of any kind (numpy's too) as int; None for everything else."""
    if isinstance(value, bool):
        return None
    try:
        return operator.index(value)  # type: ignore[arg-type]  # the TypeError is the check
    except TypeError:
        return None


def _integer(lowest: int, expected: str) -> Callable[[str, object], int]:
    def check(name: str, value: object) -> int:
        number = _index(value)
        if number is None or number < lowest:
            raise refusal(name, value, expected)
        return number

    return check


def _flag(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise refusal(name, value, "True or False")
    return value


def _indices(
    name: str, value: object, expected: str = "a list of whole numbers"
) -> tuple[int, ...]:
    if not isinstance(value, Sequence | range | set | frozenset) or isinstance(value, str | bytes):
        raise refusal(name, value, expected)
    numbers = tuple(_index(item) for item in value)
    if any(number is None for number in numbers):
        raise refusal(name, value, expected)
    return tuple(number for number in numbers if number is not None)


def _layers(name: str, value: object) -> tuple[int, ...] | None:
    return (
        None if value is None else _indices(name, value, "a list of whole numbers, or None for all")
    )


def _heads(name: str, value: object) -> object:
    if value in ("all", "average"):
        return value
    if isinstance(value, str) or value is None:
        raise refusal(name, value, '"all", "average", a head or a list of heads')
    single = _index(value)
    if single is not None:
        return single
    heads = _indices(name, value)
    if not heads:
        raise refusal(name, value, "at least one head, or attention=False")
    return heads


def _path(name: str, value: object) -> Path | None:
    if value is None:
        return None
    if not isinstance(value, str | os.PathLike) or not str(value) or "\0" in str(value):
        raise refusal(name, value, "a path")
    if "://" in str(value):
        raise refusal(name, value, "a path on this machine, not a URL")
    try:
        return Path(value).expanduser()
    except RuntimeError as error:  # of a user who is not known here
        raise refusal(name, value, "a path; nobody knows that home directory") from error


def _paths(name: str, value: object) -> tuple[Path, ...]:
    if value is None:
        return ()
    items = [value] if isinstance(value, str | os.PathLike) else value
    if not isinstance(items, Sequence):
        raise refusal(name, value, "a directory or a list of directories")
    paths = tuple(_path(name, item) for item in items)
    if any(path is None for path in paths):
        raise refusal(name, value, "a directory or a list of directories")
    return tuple(path for path in paths if path is not None)


def _run(name: str, value: object) -> str | None:
    if value is None:
        return None
    if isinstance(value, str) and re.fullmatch(RUN_PATTERN, value) and value not in {".", ".."}:
        return value
    expected = f"1 to {MAX_RUN_CHARS} letters, digits, dots, underscores and dashes"
    raise refusal(name, value, expected)


def _ring_bytes(name: str, value: object) -> int:
    number = _index(value)
    if number is None or not MIN_CAPACITY_BYTES <= number <= MAX_CAPACITY_BYTES:
        expected = f"bytes from {MIN_CAPACITY_BYTES} to {MAX_CAPACITY_BYTES}, such as 64 << 20"
        raise refusal(name, value, expected)
    return number


def _step_bytes(name: str, value: object) -> int | None:
    return None if value is None else _integer(1, "bytes, such as 16 << 20")(name, value)


def _pictures(name: str, value: object) -> tuple[str, ...]:
    is_list = isinstance(value, Sequence) and not isinstance(value, str | bytes)
    if not is_list or not all(item in PICTURES for item in cast("Sequence[object]", value)):
        raise refusal(name, value, f"a list of {', '.join(PICTURES)}")
    return tuple(dict.fromkeys(cast("Sequence[str]", value)))


def _settings(name: str, value: object) -> dict[str, object]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise refusal(name, value, "a mapping of names to values")
    return {str(key): _json_like(item, MAX_CONFIG_DEPTH) for key, item in value.items()}


def _json_like(value: object, depth: int) -> object:
    fits_an_integer = isinstance(value, int) and -(1 << 63) <= value < 1 << 64
    if value is None or fits_an_integer or isinstance(value, bool | float | str):
        return value
    if depth and isinstance(value, Mapping):
        return {str(key): _json_like(item, depth - 1) for key, item in value.items()}
    if depth and isinstance(value, list | tuple):
        return [_json_like(item, depth - 1) for item in value]
    return str(value)


CHECKS: Mapping[str, Callable[[str, object], object]] = {
    "every": _integer(1, "a whole number of steps, 1 or more"),
    "epochs": _indices,
    "layers": _layers,
    "heads": _heads,
    "sample": _integer(0, "the index of a sample, 0 or more"),
    "max_queries": _integer(1, "a number of rows, 1 or more"),
    "attention": _flag,
    "gradients": _flag,
    "save_dir": _path,
    "checkpoints": _paths,
    "run": _run,
    "ring_bytes": _ring_bytes,
    "step_bytes": _step_bytes,
    "visualize": _pictures,
    "save_raw": _flag,
    "config": _settings,
    "autostart": _flag,
}
