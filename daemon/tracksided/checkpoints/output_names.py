"""What an average is called, and which names it may not take."""

import re
from pathlib import PurePath

from tracksided.checkpoints.formats.catalog import FILE_FORMATS, format_of, suffix_of
from tracksided.checkpoints.metrics import METRICS_FILE
from tracksided.checkpoints.naming import provenance_name, stem_of
from tracksided.checkpoints.store import Home, Store
from tracksided.errors import SettingsError

DEFAULT_OUTPUT = "averaged_model.pt"
DEFAULT_DIRECTORY_OUTPUT = "averaged"

_STEP_OF_TORCHTITAN = re.compile(r"step-\d")


def output_name(home: Home, wanted: str, format_name: str) -> str:
    """Name the output at its home; a suffix that belongs to another format is exchanged.

    Args:
        home: where it will be.
        wanted: the name that was asked for.
        format_name: of the checkpoints.

    Raises:
        SettingsError: it would lie elsewhere, take the place of a file that is no average, or be
            deleted by a trainer that takes it for a checkpoint of its own.
    """
    name = wanted
    if name in {"", ".."} or PurePath(name).name != name:
        raise SettingsError(
            f"{name!r} as output: give a name without a directory; the average lies beside its "
            "sources"
        )
    own = next((entry for entry in FILE_FORMATS if entry.name == format_name), None)
    if own is None:
        return _directory_at(home, wanted)
    of_name = format_of(name)
    if provenance_name(name) != name and (of_name is None or of_name.name != own.name):
        name = _without_suffix(name) + own.suffixes[0]
    # Under the default name an average of another tool may lie; it is meant to be replaced.
    is_default = stem_of(name) == stem_of(DEFAULT_OUTPUT)
    store, name = home.store, home.prefix + name
    _require_json_of_its_own(store, name, own.suffixes[0])
    files = (provenance_name(name),) if is_default else (name, provenance_name(name))
    taken = next((file for file in files if store.has_file(file)), None)
    if taken is not None and store.provenance_of(name) is None:
        raise SettingsError(
            f"{name!r} as output: {store}/{taken} exists and is no average of trackside, nor what "
            "describes one; move it away, or use another name"
        )
    return name


def possible_names(wanted: str) -> set[str]:
    """Return what averages are called that were made under the same name, or the default one.

    Args:
        wanted: the name that was asked for.
    """
    suffixes = [suffix for entry in FILE_FORMATS for suffix in entry.suffixes]
    stems = (_without_suffix(wanted), stem_of(DEFAULT_OUTPUT))
    names = {stem + suffix for stem in stems for suffix in suffixes}
    return names | {wanted, _directory_output_name(wanted), DEFAULT_DIRECTORY_OUTPUT}


def _directory_at(home: Home, wanted: str) -> str:
    """Name an output that is a directory, and refuse what a trainer would delete."""
    name = home.prefix + _directory_output_name(wanted)
    if name.startswith("checkpoint-" if home.prefix else "checkpoint"):
        raise SettingsError(
            f"{name!r} as output: the Trainer's rotation deletes what is named checkpoint-*, and "
            "scripts of Diffusers end at what begins like that and has no number; use another name"
        )
    if _STEP_OF_TORCHTITAN.search(name):
        raise SettingsError(
            f"{name!r} as output: torchtitan deletes, and loads, what has step-N in its name; use "
            "another name"
        )
    return name


def _require_json_of_its_own(store: Store, name: str, suffix: str) -> None:
    """Refuse a file whose description would take the place of itself, or of another's."""
    description = provenance_name(name)
    if description == name:
        raise SettingsError(
            f"{name!r} as output: the JSON file that describes the average has this name; use "
            f"{stem_of(name) + suffix!r}"
        )
    if description == METRICS_FILE:
        raise SettingsError(
            f"{name!r} as output: the JSON file that describes the average would be {description}, "
            "which is for metrics of checkpoints; use another name"
        )
    known = store.provenance_of(name)
    other = None if known is None else known.get("output")
    if isinstance(other, str) and other != name and store.has_file(other):
        raise SettingsError(
            f"{name!r} as output: {store}/{description} describes {other}; move both away, or use "
            "another name"
        )


def _directory_output_name(wanted: str) -> str:
    """Name the output that checkpoint directories have."""
    return DEFAULT_DIRECTORY_OUTPUT if wanted == DEFAULT_OUTPUT else _without_suffix(wanted)


def _without_suffix(name: str) -> str:
    """Leave out what a format calls its files; in ``model-v1.5`` there is nothing like that."""
    return name.removesuffix(suffix_of(name))
