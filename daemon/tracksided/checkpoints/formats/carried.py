"""Which files of a checkpoint directory go along with averaged weights, and which never do."""

from collections.abc import Collection
from dataclasses import dataclass

from tracksided.checkpoints.formats.trainer_state import TRAINER_STATE
from tracksided.checkpoints.json_source import read_json
from tracksided.checkpoints.naming import DIRECTORY_PROVENANCE
from tracksided.checkpoints.source import SourceDirectory, SourceFile

MAX_CARRIED_BYTES = 64 << 20  # the largest tokenizers have half of it
_MAX_CONFIG_BYTES = 1 << 20  # that is read here; a parsed one may take thirty times as much

# State of one moment of the training, or weights that are not the average.
_NEVER = frozenset(
    {
        DIRECTORY_PROVENANCE,
        TRAINER_STATE,
        "metrics.json",
        "latest",
        "zero_to_fp32.py",
    }
)
# Without them `from_pretrained` loads nothing: refused are links that lead elsewhere, and halves.
_NEEDED = frozenset({"config.json", "adapter_config.json"})
_NEVER_SUFFIXES = (
    ".bin",
    ".ckpt",
    ".distcp",
    ".flashpack",
    ".gguf",
    ".h5",
    ".index.json",
    ".msgpack",
    ".onnx",
    ".pkl",
    ".pt",
    ".pth",
    ".safetensors",
)


@dataclass(frozen=True, slots=True)
class Carried:
    """The files beside the weights."""

    files: tuple[SourceFile, ...]
    left_out: tuple[str, ...]
    """Names of what does not go along: also pipes, devices and links out of the directory."""


def carried_files(
    directory: SourceDirectory, used: Collection[str], needed: frozenset[str] = _NEEDED
) -> Carried:
    """Open the small files that a loader needs: configuration, tokenizer and their like.

    Args:
        directory: of the checkpoint.
        used: names that are taken care of already.
        needed: names of what goes along in any case.

    Raises:
        SourceRefused: a file cannot be opened, or one that is needed is too large, or no JSON.
    """
    files: list[SourceFile] = []
    left_out: list[str] = []
    for name in sorted(directory.names.difference(used)):
        if name.startswith("."):
            continue
        is_taken = name not in _NEVER and not name.endswith(_NEVER_SUFFIXES)
        if name not in needed and not (is_taken and directory.is_file(name)):
            left_out.append(name)
            continue
        source = directory.open(name)
        if source.nbytes > MAX_CARRIED_BYTES:
            if name in needed:
                raise source.refusal(
                    f"{source.nbytes} bytes, more than the {MAX_CARRIED_BYTES} that go along"
                )
            left_out.append(name)
            continue
        if name in needed & _NEEDED and source.nbytes <= _MAX_CONFIG_BYTES:
            read_json(source, _MAX_CONFIG_BYTES)
        files.append(source)
    return Carried(tuple(files), tuple(left_out))
