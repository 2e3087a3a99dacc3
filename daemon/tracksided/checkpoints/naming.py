"""Names of the Trainer's directories, and those that averaging itself uses."""

import re
import secrets
from pathlib import PurePath

TEMPORARY_SUFFIX = ".trackside-tmp"
ASIDE_SUFFIX = ".trackside-old"
DIRECTORY_PROVENANCE = "averaging.json"

_DIRECTORY = re.compile(r"checkpoint-(\d+)")
_OWN = re.compile(r"\.(?P<output>.+)\.[0-9a-f]{12}(?P<suffix>\.trackside-(?:tmp|old))", re.DOTALL)
_TAR = re.compile(r"(\.pth?)\.tar$", re.IGNORECASE)
_MAX_DIGITS = 18


def stem_of(name: str) -> str:
    """Return the name of a file without its suffix, which may be a double one: ``.pth.tar``."""
    return PurePath(_TAR.sub(r"\1", name)).stem


def step_in_directory_name(name: str) -> int | None:
    """Return N of ``checkpoint-N``, or None."""
    found = _DIRECTORY.fullmatch(name)
    return None if found is None or len(found.group(1)) > _MAX_DIGITS else int(found.group(1))


def is_checkpoint_directory(name: str) -> bool:
    """Whether a directory is a checkpoint by its name, whatever it holds so far."""
    return _DIRECTORY.fullmatch(name) is not None


def provenance_name(output_name: str) -> str:
    """Return the name of the JSON file beside an average."""
    return stem_of(output_name) + ".json"


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
