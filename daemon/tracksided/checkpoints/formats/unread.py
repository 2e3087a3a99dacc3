"""Checkpoint directories that are known, and not read: what they are, and what to do."""

import re
from collections.abc import Collection

_RANK_SHARD = re.compile(r"pytorch_model_fsdp(?:_\d+)?_rank\d+\.bin")
# Accelerate has DeepSpeed save into a directory called pytorch_model.
_DEEPSPEED = re.compile(
    r"zero_to_fp32\.py|pytorch_model(?:_\d+)?|mp_rank_\d+_model_states\.pt"
    r"|(?:bf16_|fp16_)?zero_pp_rank_\d+_mp_rank_\d+_(?:model|optim)_states\.pt"
)
# Of torch.distributed.checkpoint: for ranks that do not talk to each other, and for safetensors.
_RANK_METADATA = re.compile(r"__\d+\.metadata")
_PART_OF_SHARDS = re.compile(r"shard-\d+-model-\d+-of-\d+\.safetensors")
_UNREAD = (
    (
        _RANK_SHARD,
        (
            "holds what each rank of FSDP saved for itself ({}), which is not read here; "
            "save with state_dict_type FULL_STATE_DICT, or SHARDED_STATE_DICT with use_dcp=True"
        ),
    ),
    (
        _DEEPSPEED,
        (
            "is a checkpoint of DeepSpeed ({}), which is not read here; make weights of it "
            "with its zero_to_fp32.py, or set stage3_gather_16bit_weights_on_model_save"
        ),
    ),
    (
        _RANK_METADATA,
        (
            "holds what each rank saved without the others ({}), which is not read here; "
            "save with use_collectives=True"
        ),
    ),
    (
        _PART_OF_SHARDS,
        (
            "holds parts of tensors ({}), which are not read here; have "
            "HuggingFaceStorageWriter put them together with enable_consolidation=True"
        ),
    ),
)
"""(what a name is like, what is said of the first such name), in the order of looking."""


def unread_kind(names: Collection[str]) -> str | None:
    """Say why a directory without weights of a format that is read here cannot be averaged.

    Args:
        names: of its entries.

    Returns:
        What it holds and what to do, for the user; None where nothing is known of it.
    """
    for pattern, message in _UNREAD:
        found = min((name for name in names if pattern.fullmatch(name)), default=None)
        if found is not None:
            return message.format(found)
    return None
