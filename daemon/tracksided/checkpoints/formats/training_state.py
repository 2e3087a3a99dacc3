"""Tell what in a torch checkpoint belongs to one step: optimizer, scheduler, scaler, random state.

Its shape says it first, wherever it lies; whole words of its key say it second.

| keys, or items of a tuple | what it is | source |
|---|---|---|
| `state`, `param_groups` (a list) | an optimizer | `torch.optim.Optimizer.state_dict` |
| `exp_avg`, `exp_avg_sq` | Adam's state of one parameter | `torch.optim.Adam` |
| `last_epoch`, one of `_step_count`, `_last_lr`, `num_bad_epochs` | a scheduler | torch |
| `scale`, `_growth_tracker` | a scaler | `torch.amp.GradScaler.state_dict` |
| `loss_scale`, `unskipped` | a scaler | apex |
| `bit_generator`, `state` | random state | `numpy.random.BitGenerator.state` |
| (version, 625 integers, rest) | random state | `random.getstate` |
| ("MT19937", ...) | random state | `numpy.random.get_state` |
"""

import re
from collections.abc import Sequence

from tracksided.checkpoints.formats.pickle_nodes import (
    MAX_NAME_CHARACTERS,
    ListNode,
    Node,
    TupleNode,
    describe,
    mapping_pairs,
)
from tracksided.checkpoints.formats.pickle_walk import Search, has_parts, parts_of
from tracksided.checkpoints.formats.torch_tensors import is_tensor
from tracksided.errors import CheckpointRefused

_OPTIMIZER = "the state of an optimizer"
_SCHEDULER = "the state of a scheduler"
_SCALER = "the state of a gradient scaler"
_RANDOM = "random state"

_GROUPS = "param_groups"
_SHAPES: tuple[tuple[frozenset[str], str], ...] = (
    (frozenset({"state", _GROUPS}), _OPTIMIZER),
    (frozenset({"exp_avg", "exp_avg_sq"}), _OPTIMIZER),
    (frozenset({"last_epoch", "_step_count"}), _SCHEDULER),
    (frozenset({"last_epoch", "_last_lr"}), _SCHEDULER),
    (frozenset({"last_epoch", "num_bad_epochs"}), _SCHEDULER),
    (frozenset({"scale", "_growth_tracker"}), _SCALER),
    (frozenset({"loss_scale", "unskipped"}), _SCALER),
    (frozenset({"bit_generator", "state"}), _RANDOM),
)
_MAX_SHAPE_KEYS = 32  # schedulers have some 15; a state dict has thousands
_MERSENNE_TWISTER = "MT19937"
_PYTHON_STATE_ITEMS = 3
_PYTHON_STATE_INTEGERS = 625  # 624 of the generator, and a position

_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+")
_HELD_IN_TENSORS = frozenset(
    {
        *("optim", "optims", "optimizer", "optimizers", "optimiser", "optimisers"),
        *("rng", "rngs"),
    }
)
# Torch's hold numbers; with tensors they may as well be noise schedules or scalers of features.
_HELD_IN_NUMBERS = frozenset({"sched", "scheduler", "schedulers", "scaler", "scalers"})
_NAMES = _HELD_IN_TENSORS | _HELD_IN_NUMBERS
_SHORT_NAMES = frozenset({"adam", "adamw", "amp", "opt", "opts", "sgd"})  # may mean settings
_STATE = frozenset({"state", "states"})
_AROUND_STATE = _STATE | {"all", "cpu", "cuda", "dict", "dicts", "gpu", "sd"}


def is_training_state(key: Node) -> bool:
    """Whether an entry's name says optimizer, scheduler, scaler or random state.

    Its last word counts, apart from ``state_dict`` and its like: `last_optimizer_state` and
    `lr_schedulers` are, `noise_scheduler_config` is not.
    """
    words = words_of(key)
    if "random" in words and _STATE.intersection(words):
        return True
    return _last_word(words) in _NAMES


def shape_of_state(node: Node) -> str | None:
    """Say what state a node is by its shape alone, or return None where it has no such shape."""
    if isinstance(node, TupleNode):
        return _RANDOM if _is_random(node.items) else None
    pairs = mapping_pairs(node)
    if not pairs:
        return None
    entries = {key: value for key, value in pairs[:_MAX_SHAPE_KEYS] if isinstance(key, str)}
    if not isinstance(entries.get(_GROUPS), ListNode | TupleNode):
        entries.pop(_GROUPS, None)
    return next((kind for keys, kind in _SHAPES if keys <= entries.keys()), None)


def words_of(key: Node) -> list[str]:
    """Split a key into its words, in lower case; one that is no text has none."""
    if not isinstance(key, str) or len(key) > MAX_NAME_CHARACTERS:
        return []
    return [word.lower() for word in _WORD.findall(key)]


class StateFinder:
    """Finds such state in one checkpoint, and remembers where there is none."""

    def __init__(self) -> None:
        self._shapes = Search(_has_shape)
        self._tensors = Search(is_tensor)
        self._states = Search(lambda node: is_tensor(node) or _has_shape(node))
        # Of lists and tuples, and what lies right in them.
        self._items = Search(self._is_item_of_state, _items)
        self._weights = Search(self._is_item_of_weights, _items)

    def is_state(self, key: Node, value: Node) -> bool:
        """Whether an entry of any dict is state of one step.

        It has its shape, is a list or tuple that holds such an item, an object that holds it
        anywhere, or has its name and holds tensors, or state by shape; the name of a scheduler or
        scaler takes the shape. Tensors themselves and what holds numbers and texts alone is not:
        those may be settings, or parts of a model.

        Raises:
            CheckpointRefused: a list or tuple holds such state beside weights.
        """
        if not has_parts(value) or is_tensor(value):
            return False
        if isinstance(value, ListNode | TupleNode) and self._items.finds_in(value):
            self._require_no_weights(key, value)
            return True
        if self._is_item_of_state(value):
            return True
        word = _last_word(words_of(key))
        if word in _HELD_IN_NUMBERS:
            return self._shapes.finds_in(value)
        is_named = is_training_state(key) or word in _SHORT_NAMES
        return is_named and self._states.finds_in(value)

    def _is_item_of_state(self, node: Node) -> bool:
        is_object = not isinstance(node, ListNode | TupleNode) and mapping_pairs(node) is None
        return self._shapes.finds_in(node) if is_object else _has_shape(node)

    def _is_item_of_weights(self, node: Node) -> bool:
        is_dict = mapping_pairs(node) is not None and not _has_shape(node)
        return is_dict and self._tensors.finds_in(node)

    def _require_no_weights(self, key: Node, sequence: Node) -> None:
        if self._weights.finds_in(sequence):
            raise CheckpointRefused(
                f"{describe(key)} holds the state of an optimizer, scheduler or the like beside "
                "other tensors in one list; save them under keys of their own"
            )


def _items(node: Node) -> list[Node]:
    """Return what a list or tuple is made of, apart from atoms; nothing of anything else."""
    return parts_of(node) if isinstance(node, ListNode | TupleNode) else []


def _has_shape(node: Node) -> bool:
    return shape_of_state(node) is not None


def _is_random(items: Sequence[Node]) -> bool:
    if items and items[0] == _MERSENNE_TWISTER:
        return len(items) > 1
    if len(items) != _PYTHON_STATE_ITEMS or not isinstance(items[1], TupleNode):
        return False
    return isinstance(items[0], int) and len(items[1].items) == _PYTHON_STATE_INTEGERS


def _last_word(words: Sequence[str]) -> str:
    """Return the last word that says something, passing over numbers, letters and `state_dict`."""
    for word in reversed(words):
        if len(word) > 1 and not word.isdigit() and word not in _AROUND_STATE:
            return word
    return ""
