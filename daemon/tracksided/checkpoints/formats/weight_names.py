"""Names of weights in a checkpoint directory, as Hugging Face's libraries give them.

Transformers, PEFT and Diffusers write one model under a fixed name, or its shards; Diffusers writes
adapters (LoRA) of all models of a pipeline into one file. Accelerate writes the second model of a
training as `model_1.safetensors`, and models of FSDP, gathered from all ranks, as
`pytorch_model_fsdp.bin`, or as shards in the directory `pytorch_model_fsdp_0`
(`accelerate.checkpointing`, `accelerate.utils.fsdp_utils`).
"""

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass

INDEX_SUFFIX = ".index.json"


@dataclass(frozen=True, slots=True)
class WeightGroup:
    """Names of which the first that is there is loaded."""

    names: tuple[str, ...]
    is_apart: bool = False
    """Another model than that of the first groups: both may have tensors of the same names."""

    def is_in(self, names: Collection[str]) -> bool:
        """Whether one of them is there, or the index of its shards."""
        return any(name in names or name + INDEX_SUFFIX in names for name in self.names)


# One or more of these are in a directory; no tensor is in two of them.
_MODEL = WeightGroup(("model.safetensors", "pytorch_model.bin"))
_OF_ONE_MODEL = (
    _MODEL,
    WeightGroup(("adapter_model.safetensors", "adapter_model.bin")),
    WeightGroup(("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")),
    WeightGroup(("pytorch_lora_weights.safetensors", "pytorch_lora_weights.bin")),
)
_FSDP = WeightGroup(("pytorch_model_fsdp.bin",), is_apart=True)
_SERIES = (_MODEL, _FSDP)  # those whose next models are numbered from 1
_SINGLE = frozenset(name for group in (*_OF_ONE_MODEL, _FSDP) for name in group.names)
_SHARD = re.compile(r"(?:diffusion_)?(?:pytorch_)?model-\d+-of-\d+\.(?:safetensors|bin)")
_OF_SHARDS = re.compile(r"pytorch_model_fsdp_\d{1,4}")
_NUMBERED = re.compile(
    r"(?P<stem>model|pytorch_model(?:_fsdp)?)_(?P<number>[1-9]\d{0,3})(?P<suffix>\.safetensors|\.bin)"
)


def is_weight_name(name: str) -> bool:
    """Whether a name is that of weights, of a shard or its directory, or of an index."""
    return (
        name.removesuffix(INDEX_SUFFIX) in _SINGLE
        or _SHARD.fullmatch(name) is not None
        or is_name_of_shards(name)
        or _base_of(name) is not None
    )


def is_name_of_shards(name: str) -> bool:
    """Whether a directory of this name holds what torch.distributed.checkpoint saved of FSDP."""
    return _OF_SHARDS.fullmatch(name) is not None


def holds_first_model(names: Collection[str]) -> bool:
    """Whether there is a file of weights, an index, which follows its shards, or a directory."""
    return any(
        name.removesuffix(INDEX_SUFFIX) in _SINGLE or is_name_of_shards(name) for name in names
    )


def weight_groups(names: Collection[str]) -> tuple[WeightGroup, ...]:
    """Return all models in a directory, in the order in which they were numbered."""
    found = [group for group in (*_OF_ONE_MODEL, _FSDP) if group.is_in(names)]
    for first in _SERIES:
        numbers = sorted(set(_numbers(first, names)))
        found += [_numbered(first, number) for number in numbers]
    return tuple(found)


def missing_model(names: Collection[str]) -> tuple[str, str] | None:
    """Return the name of a model that was not saved, and that of one behind it, or None."""
    for first in _SERIES:
        expected = first
        for place, number in enumerate(sorted(set(_numbers(first, names))), start=1):
            behind = next(name for name in _numbered(first, number).names if name in names)
            if not expected.is_in(names):
                return expected.names[0], behind
            if number != place:
                return _numbered(first, place).names[0], behind
            expected = _numbered(first, number)
    return None


def _numbers(first: WeightGroup, names: Collection[str]) -> Iterator[int]:
    for name in names:
        base = _base_of(name)
        if base is not None and base[0] in first.names:
            yield base[1]


def _base_of(name: str) -> tuple[str, int] | None:
    """Return the name of the first model and the number of one that follows it, or None."""
    found = _NUMBERED.fullmatch(name)
    if found is None or found["stem"] + found["suffix"] not in _SINGLE:
        return None
    return found["stem"] + found["suffix"], int(found["number"])


def _numbered(first: WeightGroup, number: int) -> WeightGroup:
    names = (name.replace(".", f"_{number}.") for name in first.names)
    return WeightGroup(tuple(names), is_apart=True)
