"""All checkpoint formats; reading this shows what can be averaged."""

from pathlib import PurePath

from tracksided.checkpoints.formats.base import CheckpointFormat
from tracksided.checkpoints.formats.safetensors import Safetensors
from tracksided.checkpoints.formats.torch_zip import TorchZip

FORMATS: tuple[CheckpointFormat, ...] = (TorchZip(), Safetensors())


def format_of(name: str) -> CheckpointFormat | None:
    """Return the format that reads files of this name, or None."""
    suffix = PurePath(name).suffix.lower()
    return next((entry for entry in FORMATS if suffix in entry.suffixes), None)
