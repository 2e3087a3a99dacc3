"""Steps in file names, and the names that averaging itself uses."""

import re
import secrets
from pathlib import PurePath

TEMPORARY_SUFFIX = ".trackside-tmp"
ASIDE_SUFFIX = ".trackside-old"
DIRECTORY_PROVENANCE = "averaging.json"

_STEP = re.compile(
    r"(?<![a-z])(?:global_?step|steps?|iter(?:ation)?s?|updates?)[-_=]?(\d+)", re.IGNORECASE
)
_EPOCH = re.compile(r"(?<![a-z])epochs?[-_=]?(\d+)", re.IGNORECASE)
_NUMBER = re.compile(r"(?<![\d.])\d+(?!\.?\d)")  # whole: 0.25 in val_loss=0.25 is no step
_DIRECTORY = re.compile(r"checkpoint-(\d+)")
_OWN = re.compile(r"\.(?P<output>.+)\.[0-9a-f]{12}(?P<suffix>\.trackside-(?:tmp|old))", re.DOTALL)
_MAX_DIGITS = 18


def step_in_name(name: str) -> int | None:
    """Return the number that a name calls a step, or None."""
    return _last(_STEP, PurePath(name).stem)


def number_in_name(name: str) -> int | None:
    """Return the number that orders names without a step: the epoch, else the last whole one."""
    stem = PurePath(name).stem
    epoch = _last(_EPOCH, stem)
    return _last(_NUMBER, stem) if epoch is None else epoch


def step_in_directory_name(name: str) -> int | None:
    """Return N of ``checkpoint-N``, else the number that the name calls a step, or None."""
    found = _DIRECTORY.fullmatch(name)
    if found is None or len(found.group(1)) > _MAX_DIGITS:
        return _last(_STEP, name)
    return int(found.group(1))


def is_checkpoint_directory(name: str) -> bool:
    """Whether a directory is a checkpoint by its name, whatever it holds so far."""
    return _DIRECTORY.fullmatch(name) is not None


def provenance_name(output_name: str) -> str:
    """Return the name of the JSON file beside an average."""
    return PurePath(output_name).stem + ".json"


def temporary_name(output_name: str) -> str:
    """Return a new hidden name that no pattern for checkpoints matches."""
    return f".{output_name}.{secrets.token_hex(6)}{TEMPORARY_SUFFIX}"


def name_to_be(name: str) -> str | None:
    """Return the output's name in a name that `temporary_name` made, or None."""
    return _output_in(name, TEMPORARY_SUFFIX)


def aside_name(output_name: str) -> str:
    """Return a new hidden name for an old output that makes room for the next."""
    return f".{output_name}.{secrets.token_hex(6)}{ASIDE_SUFFIX}"


def name_before_aside(name: str) -> str | None:
    """Return the output's name in a name that `aside_name` made, or None."""
    return _output_in(name, ASIDE_SUFFIX)


def _output_in(name: str, suffix: str) -> str | None:
    """Return the output's name in one of our names; None in those that others gave."""
    found = _OWN.fullmatch(name)
    if found is None or found["suffix"] != suffix or found["output"] in {".", ".."}:
        return None
    return found["output"]


def _last(pattern: re.Pattern[str], stem: str) -> int | None:
    found = [match.group(match.lastindex or 0) for match in pattern.finditer(stem)]
    return int(found[-1]) if found and len(found[-1]) <= _MAX_DIGITS else None
