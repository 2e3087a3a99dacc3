"""Which entry of a torch checkpoint is the model, and which of the others go along with it."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from tracksided.checkpoints.formats.pickle_nodes import (
    MAX_NAME_CHARACTERS,
    CallNode,
    DictNode,
    Node,
    describe,
    mapping_pairs,
    text_entries,
)
from tracksided.checkpoints.formats.torch_tensors import (
    Storage,
    has_tensor,
    is_tensor,
    storages_below,
)
from tracksided.checkpoints.numbers import MAX_COUNT
from tracksided.checkpoints.shown import shown, unquoted
from tracksided.errors import CheckpointRefused

WRAPPER_KEYS = ("model", "state_dict", "model_state_dict", "module")
CALLBACKS = "callbacks"  # Lightning's
STEP_KEYS = ("global_step", "step", "steps", "num_updates", "iteration", "iter")

# Hyper-parameters and buffers that a loader needs are small; an EMA copy or optimizer is not.
MAX_CARRIED_BYTES = 1 << 20
MAX_CARRIED_IN_ALL_BYTES = 16 << 20  # they are held while the output is laid out

_MAX_LISTED = 8  # keys in a message
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+")
# State of one moment of the training: beside averaged weights it would be a lie.
_TRAINING = frozenset(
    {
        *("optim", "optims", "optimizer", "optimizers", "optimiser", "optimisers"),
        *("sched", "scheduler", "schedulers", "scaler", "scalers", "rng", "rngs"),
    }
)
_IF_WITH_TENSORS = frozenset({"adam", "adamw", "amp", "opt", "sgd"})  # else mere settings
_STATE = frozenset({"state", "states"})
_AROUND_STATE = _STATE | {"all", "cpu", "cuda", "dict", "dicts", "gpu", "sd"}
_OTHER_WEIGHTS = frozenset({"average", "averaged", "avg", "ema", "shadow", "swa"})
_OPTIMIZER_KEYS = frozenset({"state", "param_groups"})


@dataclass(frozen=True, slots=True)
class ModelPart:
    """Where the model's tensors are in a checkpoint."""

    root: Node
    key: str | None
    """The wrapper's entry, or None where the whole checkpoint is the state dict."""

    node: Node

    @property
    def entries(self) -> list[tuple[Node, Node]] | None:
        """What is averaged, by key; None where `node` is a tensor itself."""
        pairs = mapping_pairs(self.node)
        if self.key is not None or pairs is None:
            return pairs
        return [
            (key, value)
            for key, value in pairs
            if is_tensor(value) or not is_of_training(key, value)
        ]


def find_model(root: Node) -> ModelPart:
    """Return the state dict of a plain or wrapped checkpoint.

    Of several wrappers the one with the most bytes of tensors is the model.

    Raises:
        CheckpointRefused: there is none, or it is not clear which it is.
    """
    pairs = mapping_pairs(root)
    if pairs is None:
        raise CheckpointRefused(
            f"it does not hold a dict but {describe(root)}; save a state dict with torch.save"
        )
    entries = text_entries(root)
    found = [key for key in WRAPPER_KEYS if _is_tree(entries.get(key))]
    if not found and any(is_tensor(value) for _, value in pairs):
        return ModelPart(root, None, root)
    if not found:
        others = (key for key, value in entries.items() if _is_other_model(key, value))
        found = list(islice(others, 2))
        _require_one(found, entries)
    key = found[0]
    if len(found) > 1:
        key = max(found, key=lambda key: _ByteCount(None).add(entries[key]))
    return ModelPart(root, key, entries[key])


def tensor_itself(root: Node) -> ModelPart:
    """Return the part that is a single tensor under an empty name.

    Raises:
        CheckpointRefused: it is something else.
    """
    if not is_tensor(root):
        raise CheckpointRefused("it holds no tensor but " + describe(root))
    return ModelPart(root, None, root)


def step_of(root: Node) -> int | None:
    """Return the step that a wrapper states, or None."""
    entries = text_entries(root)
    for key in STEP_KEYS:
        value = entries.get(key)
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < MAX_COUNT:
            return value
    return None


def is_training_state(key: Node) -> bool:
    """Whether an entry's name says optimizer, scheduler, scaler or random state.

    Its last word counts, apart from ``state_dict`` and its like: `last_optimizer_state` and
    `lr_schedulers` are, `noise_scheduler_config` is not.
    """
    words = _words(key)
    named = _essential(words)
    if "random" in words and _STATE.intersection(words):
        return True
    return bool(named) and named[-1] in _TRAINING


def is_of_training(key: Node, value: Node) -> bool:
    """Whether an entry is state that only one checkpoint can have; numbers and texts never are."""
    if value is None or isinstance(value, bool | int | float | str | bytes):
        return False
    if is_training_state(key) or _looks_like_optimizer(value):
        return True
    return key in _IF_WITH_TENSORS and has_tensor(value)


def without_training_state(part: ModelPart) -> tuple[Node, tuple[str, ...]]:
    """Return the root without what belongs to the newest checkpoint only, and what that is.

    Raises:
        CheckpointRefused: there are more tensors beside the model than in it, which would be
            left out or not averaged, or too many small ones.
    """
    kept: list[tuple[Node, Node]] = []
    dropped: list[str] = []
    carried: dict[str, int] = {}
    beside: dict[str, int] = {}
    count = _ByteCount(part.node if part.key is not None else None)
    for key, value in mapping_pairs(part.root) or []:
        if value is part.node or (part.key is None and is_tensor(value)):
            kept.append((key, value))
        elif is_of_training(key, value):
            dropped.append(_label(key))
        elif part.key is None:
            kept.append((key, value))
        else:
            smaller, left_out, nbytes = _what_goes(key, value, count)
            is_small = nbytes <= MAX_CARRIED_BYTES
            dropped += left_out if is_small else [_label(key)]
            if is_small:
                kept.append((key, smaller))
                carried[_label(key)] = nbytes
            if not _OTHER_WEIGHTS.intersection(_words(key)):
                beside[_label(key)] = nbytes
    if part.key is not None:
        _require_mostly_model(part.key, count.model_bytes, beside)
        _require_little(carried)
    return _with_pairs(part.root, kept) if dropped else part.root, tuple(dropped)


class _ByteCount:
    """Counts the bytes of tensors, each storage once, and none of the model's."""

    def __init__(self, model: Node) -> None:
        self._seen: set[int] = set()
        self._storages: dict[str, Storage] = {}
        self.model_bytes = self.add(model)

    def add(self, node: Node) -> int:
        """Return the bytes below a node that were not counted yet."""
        new = {
            key: storage
            for key, storage in storages_below(node, self._seen).items()
            if key not in self._storages
        }
        self._storages |= new
        return sum(storage.nbytes for storage in new.values())


def _require_mostly_model(key: str, model_bytes: int, beside: Mapping[str, int]) -> None:
    """Refuse where the weights may well be somewhere else."""
    nbytes = sum(beside.values())
    if nbytes <= max(model_bytes, MAX_CARRIED_BYTES):
        return
    largest = sorted(beside, key=lambda label: beside[label], reverse=True)[:_MAX_LISTED]
    listed = ", ".join(f"'{label}'" for label in largest if beside[label])
    raise CheckpointRefused(
        f"it is not clear which are the weights: {shown(key)} holds {model_bytes} bytes of "
        f"tensors, other entries {nbytes} ({listed}); save those that are meant alone"
    )


def _require_little(carried: Mapping[str, int]) -> None:
    nbytes = sum(carried.values())
    if nbytes > MAX_CARRIED_IN_ALL_BYTES:
        raise CheckpointRefused(
            f"its small entries beside the model hold {nbytes} bytes of tensors, "
            f"{MAX_CARRIED_IN_ALL_BYTES} at most go along; put them under one key"
        )


def _what_goes(key: Node, value: Node, count: _ByteCount) -> tuple[Node, tuple[str, ...], int]:
    """Return an entry beside the model, what it lost, and the bytes of its tensors.

    Of Lightning's callbacks single ones are left out: one may keep an EMA copy.
    """
    pairs = mapping_pairs(value)
    if key != CALLBACKS or pairs is None:
        return value, (), count.add(value)
    left: list[tuple[Node, Node]] = []
    gone: list[str] = []
    nbytes = 0
    for name, state in pairs:
        more = count.add(state)
        if nbytes + more > MAX_CARRIED_BYTES:
            gone.append(f"{CALLBACKS}.{_label(name)}")
        else:
            nbytes += more
            left.append((name, state))
    return (_with_pairs(value, left) if gone else value), tuple(gone), nbytes


def _with_pairs(node: Node, pairs: list[tuple[Node, Node]]) -> Node:
    """Copy a mapping with other pairs."""
    if not isinstance(node, CallNode):
        return DictNode(pairs)
    copy = CallNode(node.function, node.arguments, node.keywords, node.is_new, node.items, pairs)
    copy.state, copy.has_state = node.state, node.has_state
    return copy


def _is_tree(node: Node) -> bool:
    return mapping_pairs(node) is not None and has_tensor(node)


def _is_other_model(key: Node, value: Node) -> bool:
    return _is_tree(value) and not is_of_training(key, value)


def _require_one(found: Sequence[str], entries: Mapping[str, Node]) -> None:
    """Take any name where only one entry can be meant."""
    if len(found) == 1:
        return
    wrappers = ", ".join(WRAPPER_KEYS)
    if found:
        listed = ", ".join(shown(key) for key in found[:_MAX_LISTED])
        raise CheckpointRefused(
            f"it is not clear which is the model: {listed} hold tensors, none is called {wrappers}"
        )
    kinds = [
        f"{shown(key)} ({describe(value)})" if key in WRAPPER_KEYS else shown(key)
        for key, value in list(entries.items())[:_MAX_LISTED]
    ]
    raise CheckpointRefused(
        f"it holds no state dict: neither tensors nor one under {wrappers}; "
        f"its keys are {', '.join(kinds) or 'none'}"
    )


def _looks_like_optimizer(value: Node) -> bool:
    keys = {key for key, _ in (mapping_pairs(value) or [])[:_MAX_LISTED] if isinstance(key, str)}
    return keys >= _OPTIMIZER_KEYS


def _label(key: Node) -> str:
    """Name an entry in the list of what was left out, which is printed."""
    return unquoted(key) if isinstance(key, str) else describe(key)


def _words(key: Node) -> list[str]:
    if not isinstance(key, str) or len(key) > MAX_NAME_CHARACTERS:
        return []
    return [word.lower() for word in _WORD.findall(key)]


def _essential(words: Sequence[str]) -> list[str]:
    """Leave out what says nothing: numbers, letters, ``state_dict`` and where it was."""
    return [
        word for word in words if len(word) > 1 and not word.isdigit() and word not in _AROUND_STATE
    ]
