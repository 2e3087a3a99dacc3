"""What lies beside the model in a torch checkpoint: which of it goes along with an average.

State of one step goes by its name alone there, and so does every other copy of the weights: one
step's EMA beside averaged weights would pass for theirs.
"""

from collections.abc import Mapping, Sequence
from functools import partial

from tracksided.checkpoints.formats.pickle_nodes import Node, PersistentNode, mapping_pairs
from tracksided.checkpoints.formats.pickle_walk import Search, has_parts
from tracksided.checkpoints.formats.taking_out import (
    Path,
    TakenOut,
    label,
    longer,
    take_from,
    take_out,
)
from tracksided.checkpoints.formats.torch_tensors import (
    Storage,
    is_tensor,
    storages_below,
    tensor_view,
)
from tracksided.checkpoints.formats.training_state import is_training_state, words_of
from tracksided.checkpoints.shown import shown
from tracksided.errors import CheckpointRefused

# Hyper-parameters and buffers that a loader needs are small.
MAX_CARRIED_BYTES = 1 << 20
MAX_CARRIED_IN_ALL_BYTES = 16 << 20  # they are held while the output is laid out

CALLBACKS = "callbacks"  # Lightning's

_MAX_LISTED = 8  # keys in a message
_OTHER_WEIGHTS = frozenset({"average", "averaged", "avg", "ema", "shadow", "swa"})
_CALLBACKS: Path = (CALLBACKS,)  # each loads its state whole, or none
_WRAPPED = "module."  # in front of the names of a wrapped model


def is_other_weights(key: Node) -> bool:
    """Whether an entry's name says that it is an average of the weights, made in training."""
    return bool(_OTHER_WEIGHTS.intersection(words_of(key)))


def leave_behind(levels: Sequence[Node], keys: Sequence[str], model: Node, taken: TakenOut) -> None:
    """Take out what does not go along with the average of a model.

    Args:
        levels: the dicts that lead to the model, the outermost first.
        keys: under which each of them holds the next one, the last the model.
        model: what is averaged.
        taken: what is gone already; what goes is noted there.

    Raises:
        CheckpointRefused: there are more tensors beside the model than in it, which would be
            left out or not averaged, or too many small ones.
    """
    after = [*levels[1:], model]
    if not any(_is_beside(*pair) for pair in zip(levels, after, strict=True)):
        return
    sorter = _Sorter(model, taken)
    for depth, (level, next_one) in enumerate(zip(levels, after, strict=True)):
        path = tuple(label(key) for key in keys[:depth])
        take_from((path, level), partial(sorter.stays_behind, path, next_one), taken)
    sorter.require_mostly_model(keys[-1])
    sorter.require_little()


def _is_beside(level: Node, next_one: Node) -> bool:
    """Whether a dict holds anything but atoms beside what leads to the model."""
    return any(
        has_parts(value) and value is not next_one for _, value in mapping_pairs(level) or []
    )


class Sizes:
    """Counts the bytes of tensors, each storage once."""

    def __init__(self) -> None:
        self._seen: set[int] = set()
        self._storages: dict[str, Storage] = {}

    def add(self, node: Node) -> int:
        """Return the bytes below a node that were not counted yet."""
        new = {
            key: storage
            for key, storage in storages_below(node, self._seen).items()
            if key not in self._storages
        }
        self._storages |= new
        return sum(storage.nbytes for storage in new.values())


class _Sorter:
    """Tells of entries beside one model whether they go along."""

    def __init__(self, model: Node, taken: TakenOut) -> None:
        self._model = model
        self._taken = taken
        self._sizes = Sizes()
        self._model_bytes = self._sizes.add(model)
        self._model_storages = storages_below(model).keys()
        self._model_tensors = _tensors_in(model)
        self._seen = {id(model)}
        self._like_model: dict[int, bool] = {}
        self._arrays = Search(_is_array)
        self._own = Search(self._is_own_storage)
        self._callback_bytes = 0
        self._carried: dict[str, int] = {}
        self._beside: dict[str, int] = {}

    def stays_behind(self, path: Path, next_one: Node, key: Node, value: Node) -> bool:
        """Whether an entry of a dict that leads to the model does not go along.

        What does is relieved of what does not.

        Args:
            path: to the dict.
            next_one: what leads to the model, or is it.
            key: of the entry.
            value: of the entry.
        """
        if value is next_one:
            return False
        if is_training_state(key) or self._is_copy(key, value):
            return True
        here = longer(path, key)
        if here == _CALLBACKS:
            take_from((here, value), self._is_callback_out, self._taken)
        take_out((here, value), self._is_out, self._taken, self._seen)
        nbytes = self._sizes.add(value) + self._callback_bytes * (here == _CALLBACKS)
        name = ".".join(here)
        self._beside[name] = nbytes
        if nbytes > MAX_CARRIED_BYTES:
            return True
        self._carried[name] = nbytes
        return False

    def require_mostly_model(self, key: str) -> None:
        """Refuse where the weights may well be somewhere else."""
        nbytes = sum(self._beside.values())
        if nbytes <= max(self._model_bytes, MAX_CARRIED_BYTES):
            return
        largest = sorted(self._beside, key=lambda name: self._beside[name], reverse=True)
        listed = ", ".join(f"'{name}'" for name in largest[:_MAX_LISTED] if self._beside[name])
        raise CheckpointRefused(
            f"it is not clear which are the weights: {shown(key)} holds {self._model_bytes} bytes "
            f"of tensors, other entries {nbytes} ({listed}); save those that are meant alone"
        )

    def require_little(self) -> None:
        """Refuse where more goes along than is held in memory."""
        nbytes = sum(self._carried.values())
        if nbytes > MAX_CARRIED_IN_ALL_BYTES:
            raise CheckpointRefused(
                f"its small entries beside the model hold {nbytes} bytes of tensors, "
                f"{MAX_CARRIED_IN_ALL_BYTES} at most go along; put them under one key"
            )

    def _is_callback_out(self, name: Node, state: Node) -> bool:
        """Whether one of Lightning's callbacks loses anything, or there is no room for it."""
        if self._is_copy(name, state):
            return True
        path = longer(_CALLBACKS, name)
        take_out((path, state), self._is_out, self._taken, self._seen)
        if self._taken.lost_below(path):
            return True
        nbytes = self._sizes.add(state)
        if self._callback_bytes + nbytes > MAX_CARRIED_BYTES:
            return True
        self._callback_bytes += nbytes
        return False

    def _is_out(self, key: Node, value: Node) -> bool:
        if is_tensor(value) and is_training_state(key):
            return True
        return self._is_copy(key, value)

    def _is_copy(self, key: Node, value: Node) -> bool:
        """Whether an entry holds the model's weights once more, in storages of its own."""
        is_named = is_other_weights(key) and self._arrays.finds_in(value)
        if not is_named and not self._is_like_model(value):
            return False
        return self._own.finds_in(value)

    def _is_own_storage(self, node: Node) -> bool:
        is_storage = isinstance(node, PersistentNode)
        return is_storage and not storages_below(node).keys() <= self._model_storages

    def _is_like_model(self, value: Node) -> bool:
        """Whether a dict holds tensors of the same names and shapes, and no other ones."""
        known = self._like_model.get(id(value))
        if known is None:
            found, expected = _tensors_in(value), self._model_tensors
            known = bool(expected) and found.keys() == expected.keys()
            known = known and all(_shape(found[name]) == _shape(expected[name]) for name in found)
            self._like_model[id(value)] = known
        return known


def _tensors_in(node: Node) -> Mapping[str, Node]:
    """Return the tensors right in a dict by name, as they are called in the bare model."""
    return {
        key.removeprefix(_WRAPPED): value
        for key, value in mapping_pairs(node) or []
        if isinstance(key, str) and is_tensor(value)
    }


def _shape(tensor: Node) -> tuple[int, ...] | None:
    """Return the shape; None for a kind that is not read here."""
    try:
        return tensor_view(tensor, "beside the model").shape
    except CheckpointRefused:
        return None


def _is_array(node: Node) -> bool:
    """Whether a node is a tensor of more than a single number, or of a kind not read here."""
    if not is_tensor(node):
        return False
    shape = _shape(node)
    return shape is None or any(size != 1 for size in shape)
