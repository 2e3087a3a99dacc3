"""Directories in a checkpoint directory: which hold weights, and which go along.

Accelerate and the Trainer save shards of FSDP in `pytorch_model_fsdp_0/`. Sentence-Transformers
have a directory for each module behind the first, with a configuration or weights of its own.
Scripts of Diffusers have `save_state` of Accelerate save every model into one: `unet/`,
`text_encoder/`. Nothing lies beside those but the state of the training.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass

from tracksided.checkpoints.formats.carried import carried_files
from tracksided.checkpoints.formats.torch_beside import is_other_weights
from tracksided.checkpoints.formats.weight_names import is_name_of_shards
from tracksided.checkpoints.naming import DIRECTORY_PROVENANCE, is_checkpoint_directory
from tracksided.checkpoints.source import SourceDirectory, SourceFile

MAX_NAMES = 100  # in a directory that goes along; templates and configurations are a handful
MAX_DIRECTORIES = 100  # in a checkpoint: each is opened, for each checkpoint

# Of the main process, which Accelerate has write it behind all models and optimizers.
ACCELERATE_STATE = "random_states_0.pkl"


@dataclass(frozen=True, slots=True)
class Nested:
    """The directories that are dealt with; all others are left out."""

    weights: tuple[SourceDirectory, ...]
    carried: tuple[SourceFile, ...]
    """All files of those without weights that go along."""

    names: tuple[str, ...]
    """Of both kinds."""


def nested_directories(
    directory: SourceDirectory,
    holds_weights: Callable[[Collection[str]], bool],
    *,
    has_weights: bool,
) -> Nested:
    """Open the directories in one.

    A directory without weights goes along where all that is in it does. Other checkpoints and
    averages that lie in it are none of its own, and directories in directories are left alone. An
    average that the training keeps beside its weights (`unet_ema`) is left out.

    Args:
        directory: of the checkpoint.
        holds_weights: whether these are the names of entries among which weights are.
        has_weights: whether the checkpoint has others than those in directories.

    Raises:
        SourceRefused: one of them cannot be read, or there are too many.
    """
    weights: list[SourceDirectory] = []
    carried: list[SourceFile] = []
    names: list[str] = []
    found = [name for name in sorted(directory.names) if _may_belong(directory, name)]
    if len(found) > MAX_DIRECTORIES:
        raise directory.refusal(
            f"holds {len(found)} directories, {MAX_DIRECTORIES} are read here; move away what is "
            "not of the checkpoint"
        )
    for name in found:
        inside = directory.directory(name)
        if DIRECTORY_PROVENANCE in inside.names:
            continue
        if holds_weights(inside.names):
            weights.append(inside)
            continue
        files = _all_files(inside)
        if files:
            carried += files
            names.append(name)
    models = [inside for inside in weights if not is_other_weights(inside.path.name)]
    if models or has_weights:
        weights = models
    names += [inside.path.name for inside in weights]
    return Nested(tuple(weights), tuple(carried), tuple(names))


def _may_belong(directory: SourceDirectory, name: str) -> bool:
    """Whether an entry is a directory that is looked into; shards are read on their own."""
    is_other = name.startswith(".") or is_checkpoint_directory(name) or is_name_of_shards(name)
    return not is_other and directory.is_directory(name)


def _all_files(directory: SourceDirectory) -> tuple[SourceFile, ...]:
    """Open all its files; none where one of them would not go along."""
    if len(directory.names) > MAX_NAMES:
        return ()
    carried = carried_files(directory, ())
    return () if carried.left_out else carried.files
