"""The Trainer's `trainer_state.json`: the last file it writes, and the step it states."""

import re
from collections.abc import Collection

from tracksided.checkpoints.json_source import read_json
from tracksided.checkpoints.naming import is_checkpoint_directory
from tracksided.checkpoints.source import SourceFile

TRAINER_STATE = "trainer_state.json"

_WRITTEN_BEFORE = "training_args.bin"
_MAX_PARSED_BYTES = 1 << 20  # the logs of a long run are larger; parsing them costs memory
_HEAD_BYTES = 64 << 10  # keys are sorted: the step stands before the logs
_TAIL_BYTES = 64
_STEP = re.compile(rb'"global_step": *(\d{1,18})\b')


def lacks_state(name: str, names: Collection[str], *, has_trainer: bool) -> bool:
    """Whether the Trainer has still to write its state into a directory.

    Args:
        name: of the directory; the Trainer's own are called checkpoint-N.
        names: of its entries.
        has_trainer: whether a directory beside it has a state.
    """
    if not is_checkpoint_directory(name) or TRAINER_STATE in names:
        return False
    return has_trainer or _WRITTEN_BEFORE in names


def trainer_step(source: SourceFile) -> int | None:
    """Return the step, or None where the file does not say.

    Raises:
        SourceRefused: the file is not complete.
    """
    if source.nbytes > _MAX_PARSED_BYTES:
        tail = source.read(source.nbytes - _TAIL_BYTES, _TAIL_BYTES)
        if not tail.rstrip().endswith(b"\n}"):  # it is written indented
            raise source.refusal("is not complete")
        found = _STEP.search(source.read(0, _HEAD_BYTES))
        return int(found.group(1)) if found else None
    parsed = read_json(source, _MAX_PARSED_BYTES)
    step = parsed.get("global_step") if isinstance(parsed, dict) else None
    return step if type(step) is int and step >= 0 else None
