"""What a ``TRACKSIDE_*`` variable stands for: text to what the keyword would have been given."""

import json
import os
from collections.abc import Callable, Mapping

from trackside.errors import ConfigError

PREFIX = "TRACKSIDE_"
_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off"})


def is_switched_off(environ: Mapping[str, str]) -> bool:
    """Whether ``TRACKSIDE=0`` (or no, false, off) turns the emitter into a no-op."""
    return environ.get("TRACKSIDE", "").strip().lower() in _FALSE


def parse(name: str, text: str) -> object:
    """Turn an environment variable into what the keyword would have been given."""
    return _PARSERS[name](name, text.strip())


def refusal(name: str, value: object, expected: str) -> ConfigError:
    """Make the error for a value that cannot be used.

    Args:
        name: of the keyword.
        value: what was given.
        expected: ends the sentence "give ...".
    """
    return ConfigError(
        f"{name}={value!r:.120} cannot be used: give {expected} "
        f"(keyword {name}=, environment {PREFIX}{name.upper()})"
    )


def _parse_flag(name: str, text: str) -> bool:
    if text.lower() not in _TRUE | _FALSE:
        raise refusal(name, text, "1 or 0")
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
        raise refusal(name, text, "a JSON object") from error
    return parsed


def _parse_selection(name: str, text: str) -> object:
    text = text.lower()
    if name == "heads" and text in {"all", "average"}:
        return text
    if name == "layers" and text in {"all", "none"}:
        return None  # the keyword's None, which is all
    if name == "epochs" and text == "none":
        return ()
    indices = tuple(_parse_integer(name, part) for part in _split(text, ","))
    is_one_head = name == "heads" and len(indices) == 1 and "," not in text
    return indices[0] if is_one_head else indices


def _parse_integer(name: str, text: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise refusal(name, text, "a whole number") from error


def _split(text: str, separator: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(separator) if part.strip())


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
    "step_bytes": _parse_integer,
    "visualize": _parse_pictures,
    "save_raw": _parse_flag,
    "config": _parse_json,
    "autostart": _parse_flag,
}
