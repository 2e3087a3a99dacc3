"""Settings of one session: keyword over environment over default, checked when built."""

import difflib
import json
import operator
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Literal, TypedDict, cast

from trackside.errors import ConfigError
from trackside.wire.layout import MAX_CAPACITY_BYTES, MIN_CAPACITY_BYTES
from trackside.wire.segment import SHM_DIR_VARIABLE

PREFIX = "TRACKSIDE_"
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

Heads = Literal["all", "average"] | int | Sequence[int]
PathLike = str | os.PathLike[str]


class AttachKeywords(TypedDict, total=False):
    """The keywords of `trackside.attach`; see `EmitterConfig` for their meaning."""

    every: int
    epochs: Sequence[int]
    layers: Sequence[int] | None
    heads: Heads
    sample: int
    max_queries: int
    attention: bool
    gradients: bool
    save_dir: PathLike | None
    checkpoints: PathLike | Sequence[PathLike] | None
    run: str | None
    ring_bytes: int
    visualize: Sequence[str]
    save_raw: bool
    config: Mapping[str, object] | None
    autostart: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class EmitterConfig:
    """Every setting of a session. Lists come as tuples, paths as `Path`, whatever was given.

    Raises:
        ConfigError: a value that cannot be used; the message names keyword, value and mend.
    """

    every: int = 100
    """Sample optimizer steps with ``step % every == 0``; steps count from 1."""

    epochs: tuple[int, ...] = ()
    """Also sample the first step of these epochs, as told by ``log(epoch=...)``."""

    layers: tuple[int, ...] | None = (0, -1)
    """Indices per stack (encoder, decoder, decoder-cross); None for all."""

    heads: Literal["all", "average"] | int | tuple[int, ...] = "all"
    """Which heads to send; ``average`` sends all and lets the daemon average."""

    sample: int = 0
    """Which sample of the batch."""

    max_queries: int = 512
    """Query rows kept per map, evenly spaced; every kept row is exact."""

    attention: bool = True
    """Whether attention is captured."""

    gradients: bool = True
    """Whether per-parameter gradient data is captured."""

    save_dir: Path | None = None
    """Where the daemon writes; None for ``./trackside_logs/<run>``."""

    checkpoints: tuple[Path, ...] = ()
    """Directories that the daemon watches and averages."""

    run: str | None = None
    """Run id; None to derive one that is equal on all ranks."""

    ring_bytes: int = 64 << 20
    """Shared memory per rank, in bytes."""

    visualize: tuple[str, ...] = ("heatmap", "statistics")
    """Which pictures the daemon draws, of `PICTURES`."""

    save_raw: bool = False
    """Whether the daemon also keeps the attention weights as arrays."""

    config: dict[str, object] = field(default_factory=dict)
    """The user's own settings, shown as they are. What JSON cannot hold becomes text."""

    autostart: bool = True
    """Whether a daemon is started where none runs."""

    def __post_init__(self) -> None:
        for name, check in _CHECKS.items():
            object.__setattr__(self, name, check(name, getattr(self, name)))

    @classmethod
    def resolve(cls, keywords: Mapping[str, object], environ: Mapping[str, str]) -> "EmitterConfig":
        """Build the settings from explicit keywords, then ``TRACKSIDE_*``, then defaults.

        Raises:
            ConfigError: an unknown keyword, or a value that cannot be used.
        """
        names = [setting.name for setting in fields(cls)]
        for keyword in keywords:
            if keyword not in names:
                near = difflib.get_close_matches(keyword, names, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(names)}"
                raise ConfigError(f"attach() has no keyword {keyword!r}; {hint}")
        chosen = {
            name: _parse(name, environ[variable])
            for name in names
            if (variable := PREFIX + name.upper()) in environ and name not in keywords
        }
        chosen.update(keywords)
        # Every value passes its check in __post_init__ before anybody sees it.
        return cls(**cast("AttachKeywords", chosen))  # type: ignore[arg-type]  # checked there

    def is_due(self, step: int) -> bool:
        """Whether ``every`` asks for this step."""
        return step % self.every == 0


def is_switched_off(environ: Mapping[str, str]) -> bool:
    """Whether ``TRACKSIDE=0`` (or no, false, off) turns the emitter into a no-op."""
    return environ.get("TRACKSIDE", "").strip().lower() in _FALSE


def unknown_variables(environ: Mapping[str, str]) -> dict[str, str]:
    """Find ``TRACKSIDE_*`` variables that nothing reads.

    They are no error as a mistyped keyword is: another version may know them, and what a shell
    or a scheduler exports must not stop a training.

    Returns:
        Name to the nearest known one, "" where none is near.
    """
    known = [setting.name.upper() for setting in fields(EmitterConfig)]
    known.append(SHM_DIR_VARIABLE.removeprefix(PREFIX))
    found: dict[str, str] = {}
    for name in sorted(environ):
        rest = name.removeprefix(PREFIX)  # the shared prefix would make all names near
        if rest != name and rest not in known:
            near = difflib.get_close_matches(rest, known, n=1)
            found[name] = PREFIX + near[0] if near else ""
    return found


_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off"})


def _refuse(name: str, value: object, expected: str) -> ConfigError:
    return ConfigError(
        f"{name}={value!r:.120} cannot be used: give {expected} "
        f"(keyword {name}=, environment {PREFIX}{name.upper()})"
    )


def _parse(name: str, text: str) -> object:
    """Turn an environment variable into what the keyword would have been given."""
    return _PARSERS[name](name, text.strip())


def _parse_flag(name: str, text: str) -> bool:
    if text.lower() not in _TRUE | _FALSE:
        raise _refuse(name, text, "1 or 0")
    return text.lower() in _TRUE


def _parse_text(_: str, text: str) -> str | None:
    return text or None


def _parse_pictures(_: str, text: str) -> tuple[str, ...]:
    return () if text.lower() == "none" else _split(text.lower(), ",")


def _parse_paths(_: str, text: str) -> tuple[str, ...]:
    return _split(text, os.pathsep)


def _parse_json(name: str, text: str) -> object:
    try:
        parsed: object = json.loads(text)
    except ValueError as error:
        raise _refuse(name, text, "a JSON object") from error
    return parsed


def _parse_selection(name: str, text: str) -> object:
    text = text.lower()
    if name == "heads" and text in {"all", "average"}:
        return text
    if name == "layers" and text == "all":
        return None
    if name != "heads" and text == "none":
        return ()
    indices = tuple(_parse_integer(name, part) for part in _split(text, ","))
    is_one_head = name == "heads" and len(indices) == 1 and "," not in text
    return indices[0] if is_one_head else indices


def _parse_integer(name: str, text: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise _refuse(name, text, "a whole number") from error


def _split(text: str, separator: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(separator) if part.strip())


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
            raise _refuse(name, value, expected)
        return number

    return check


def _flag(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise _refuse(name, value, "True or False")
    return value


def _indices(name: str, value: object) -> tuple[int, ...]:
    expected = "a list of whole numbers"
    if not isinstance(value, Sequence | range | set | frozenset) or isinstance(value, str | bytes):
        raise _refuse(name, value, expected)
    numbers = tuple(_index(item) for item in value)
    if any(number is None for number in numbers):
        raise _refuse(name, value, expected)
    return tuple(number for number in numbers if number is not None)


def _layers(name: str, value: object) -> tuple[int, ...] | None:
    return None if value is None else _indices(name, value)


def _heads(name: str, value: object) -> object:
    if value in ("all", "average"):
        return value
    if isinstance(value, str) or value is None:
        raise _refuse(name, value, '"all", "average", a head or a list of heads')
    single = _index(value)
    if single is not None:
        return single
    heads = _indices(name, value)
    if not heads:
        raise _refuse(name, value, "at least one head, or attention=False")
    return heads


def _path(name: str, value: object) -> Path | None:
    if value is None:
        return None
    if not isinstance(value, str | os.PathLike) or not str(value) or "\0" in str(value):
        raise _refuse(name, value, "a path")
    return Path(value).expanduser()


def _paths(name: str, value: object) -> tuple[Path, ...]:
    if value is None:
        return ()
    items = [value] if isinstance(value, str | os.PathLike) else value
    if not isinstance(items, Sequence):
        raise _refuse(name, value, "a directory or a list of directories")
    paths = tuple(_path(name, item) for item in items)
    if any(path is None for path in paths):
        raise _refuse(name, value, "a directory or a list of directories")
    return tuple(path for path in paths if path is not None)


def _run(name: str, value: object) -> str | None:
    if value is None:
        return None
    allowed = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
    is_usable = isinstance(value, str) and 0 < len(value) <= 100 and set(value) <= allowed  # noqa: PLR2004 - as SegmentName says
    if not isinstance(value, str) or not is_usable or value in {".", ".."}:
        raise _refuse(name, value, "1 to 100 letters, digits, dots, underscores and dashes")
    return value


def _ring_bytes(name: str, value: object) -> int:
    number = _index(value)
    if number is None or not MIN_CAPACITY_BYTES <= number <= MAX_CAPACITY_BYTES:
        expected = f"bytes from {MIN_CAPACITY_BYTES} to {MAX_CAPACITY_BYTES}, such as 64 << 20"
        raise _refuse(name, value, expected)
    return number


def _pictures(name: str, value: object) -> tuple[str, ...]:
    is_list = isinstance(value, Sequence) and not isinstance(value, str | bytes)
    if not is_list or not all(item in PICTURES for item in cast("Sequence[object]", value)):
        raise _refuse(name, value, f"a list of {', '.join(PICTURES)}")
    return tuple(dict.fromkeys(cast("Sequence[str]", value)))


def _settings(name: str, value: object) -> dict[str, object]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise _refuse(name, value, "a mapping of names to values")
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


_CHECKS: Mapping[str, Callable[[str, object], object]] = {
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
    "visualize": _pictures,
    "save_raw": _flag,
    "config": _settings,
    "autostart": _flag,
}

_PARSERS: Mapping[str, Callable[[str, str], object]] = {
    "every": _parse_integer,
    "epochs": _parse_selection,
    "layers": _parse_selection,
    "heads": _parse_selection,
    "sample": _parse_integer,
    "max_queries": _parse_integer,
    "attention": _parse_flag,
    "gradients": _parse_flag,
    "save_dir": _parse_text,
    "checkpoints": _parse_paths,
    "run": _parse_text,
    "ring_bytes": _parse_integer,
    "visualize": _parse_pictures,
    "save_raw": _parse_flag,
    "config": _parse_json,
    "autostart": _parse_flag,
}
