"""Which entry of a torch checkpoint is the model; what of one step lies beside it is taken out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from tracksided.checkpoints.formats.pickle_nodes import (
    Node,
    describe,
    mapping_pairs,
    text_entries,
)
from tracksided.checkpoints.formats.pickle_walk import Search, has_parts, parts_of
from tracksided.checkpoints.formats.taking_out import MAX_PATH, TakenOut, label, take_from, take_out
from tracksided.checkpoints.formats.torch_beside import Sizes, is_other_weights, leave_behind
from tracksided.checkpoints.formats.torch_steps import STEP_KEYS, step_of
from tracksided.checkpoints.formats.torch_tensors import is_tensor
from tracksided.checkpoints.formats.training_state import (
    StateFinder,
    is_training_state,
    shape_of_state,
)
from tracksided.checkpoints.shown import shown
from tracksided.errors import CheckpointRefused

WRAPPER_KEYS = ("model", "state_dict", "model_state_dict", "module")

_MAX_LISTED = 8  # keys in a message


@dataclass(frozen=True, slots=True)
class ModelPart:
    """Where the model's tensors are in a checkpoint, which has lost what is not for an average."""

    root: Node
    levels: tuple[Node, ...]
    """The dicts that lead to the model, the outermost first; none where all is the model."""

    node: Node
    step: int | None = None
    """As the checkpoint states it."""

    dropped: tuple[str, ...] = ()
    """What was taken out, by name."""

    gone: tuple[Node, ...] = ()
    """The same, as it was."""

    @property
    def entries(self) -> list[tuple[Node, Node]] | None:
        """What is averaged, by key; None where `node` is a tensor itself."""
        return mapping_pairs(self.node)


def find_model(root: Node) -> ModelPart:
    """Find the state dict of a plain or wrapped checkpoint, and take out what does not go along.

    Of several wrappers the one with the most bytes of tensors is the model.

    Args:
        root: of the checkpoint; it is altered.

    Raises:
        CheckpointRefused: there is none, it is not clear which it is, or what lies beside it
            speaks against it.
    """
    pairs = mapping_pairs(root)
    if pairs is None:
        raise CheckpointRefused(
            f"it does not hold a dict but {describe(root)}; save a state dict with torch.save"
        )
    kind = shape_of_state(root)
    if kind is not None:
        raise CheckpointRefused(f"it holds {kind}, and no model")
    outermost = [key for key, _ in pairs]
    taken = TakenOut()
    take_out(((), root), StateFinder().is_state, taken, set())
    way = _Finder(taken).way(root, outermost)
    levels = (root, *(node for _, node in way[:-1])) if way else ()
    model = way[-1][1] if way else root
    _take_out_of_model(model, [label(key) for key, _ in way], taken)
    if way:
        leave_behind(levels, [key for key, _ in way], model, taken)
    return ModelPart(
        root,
        levels,
        model,
        step_of((*levels, model)),
        taken.listed(outermost),
        tuple(taken.nodes),
    )


def tensor_itself(root: Node) -> ModelPart:
    """Return the part that is a single tensor under an empty name.

    Raises:
        CheckpointRefused: it is something else.
    """
    if not is_tensor(root):
        raise CheckpointRefused("it holds no tensor but " + describe(root))
    return ModelPart(root, (), root)


class _Finder:
    """Finds the way to the model through one checkpoint."""

    def __init__(self, taken: TakenOut) -> None:
        self._taken = taken
        self._tensors = Search(is_tensor)
        self._tensors_of_no_average = Search(is_tensor, _parts_of_no_average)

    def way(self, root: Node, outermost: Sequence[Node]) -> list[tuple[str, Node]]:
        """Return the keys and entries that lead to the model; none where all is the model.

        Args:
            root: of the checkpoint.
            outermost: its keys, also of what was taken out.

        Raises:
            CheckpointRefused: there is no model, or it is not clear which it is.
        """
        entries = text_entries(root)
        found = self._wrappers(entries)
        if not found and _is_state_dict(root):
            return []
        if not found:
            found = self._single(entries)
            left = [label(key) for key, value in entries.items() if _is_named_state(key, value)]
            _require_one(found, entries, [*self._taken.listed(outermost), *left])
        way = [(found[0], entries[found[0]])]
        while len(way) < MAX_PATH:
            further = self._further(way[-1][1])
            if not further:
                break
            way += further
        return way

    def _single(self, entries: Mapping[str, Node]) -> list[str]:
        """Return the keys of the dicts of tensors; averages of the weights only if alone."""
        trees = [
            key
            for key, value in entries.items()
            if self._is_tree(value) and not is_training_state(key)
        ]
        own = [
            key
            for key in trees
            if not is_other_weights(key) and self._tensors_of_no_average.finds_in(entries[key])
        ]
        return own or trees

    def _further(self, node: Node) -> list[tuple[str, Node]]:
        """Return the way further in, where a dict that is a checkpoint of its own lies there.

        A dict of dicts may as well be the model, and one of its parts be called `model`.
        """
        way: list[tuple[str, Node]] = []
        while len(way) < MAX_PATH:
            entries = text_entries(node)
            if self._is_checkpoint(node):
                found = self._wrappers(entries)[:1]
                if not found and not _is_state_dict(node):
                    found = self._single(entries)
                return [*way, (found[0], entries[found[0]])] if len(found) == 1 else []
            trees = [entry for entry in entries.items() if self._tensors.finds_in(entry[1])]
            if len(trees) != 1 or not self._is_tree(trees[0][1]):
                break
            way.append(trees[0])
            node = trees[0][1]
        return []

    def _wrappers(self, entries: Mapping[str, Node]) -> list[str]:
        """Return the wrappers' keys that hold tensors, the one with the most bytes first."""
        found = [key for key in WRAPPER_KEYS if self._is_tree(entries.get(key))]
        if len(found) > 1:
            found.sort(key=lambda key: Sizes().add(entries[key]), reverse=True)
        return found

    def _is_tree(self, node: Node) -> bool:
        return mapping_pairs(node) is not None and self._tensors.finds_in(node)

    def _is_checkpoint(self, node: Node) -> bool:
        """Whether a dict around a model says that it is more than a part of one."""
        return self._taken.lost_something(node) or any(
            (_is_named_state(key, value) and not self._tensors.finds_in(value))
            or (key in {"epoch", *STEP_KEYS} and isinstance(value, int))
            for key, value in text_entries(node).items()
        )


def _parts_of_no_average(node: Node) -> list[Node]:
    pairs = mapping_pairs(node)
    if pairs is None:
        return parts_of(node)
    return [value for key, value in pairs if has_parts(value) and not is_other_weights(key)]


def _is_state_dict(node: Node) -> bool:
    """Whether a dict holds tensors itself, and not random state alone."""
    return any(
        is_tensor(value) and not is_training_state(key) for key, value in mapping_pairs(node) or []
    )


def _take_out_of_model(model: Node, keys: Sequence[str], taken: TakenOut) -> None:
    """Take out what its name alone shows to be state of one step.

    A tensor among other tensors is the model's, whatever it is called, and so is a dict further in.
    """
    is_state_dict = _is_state_dict(model)

    def is_out(key: Node, value: Node) -> bool:
        is_candidate = not is_state_dict if is_tensor(value) else not keys
        return is_candidate and is_training_state(key)

    take_from((tuple(keys), model), is_out, taken)


def _is_named_state(key: str, value: Node) -> bool:
    return is_training_state(key) and has_parts(value)


def _require_one(found: Sequence[str], entries: Mapping[str, Node], gone: Sequence[str]) -> None:
    """Take any name where only one entry can be meant."""
    if len(found) == 1:
        return
    wrappers = ", ".join(WRAPPER_KEYS)
    if found:
        listed = ", ".join(shown(key) for key in islice(found, _MAX_LISTED))
        raise CheckpointRefused(
            f"it is not clear which is the model: {listed} hold tensors, none is called {wrappers}"
        )
    if gone:
        listed = ", ".join(gone[:_MAX_LISTED])
        raise CheckpointRefused(
            "it holds no model, only state of one step (optimizer, scheduler, random state): "
            f"{listed}"
        )
    kinds = [
        f"{shown(key)} ({describe(value)})" if key in WRAPPER_KEYS else shown(key)
        for key, value in islice(entries.items(), _MAX_LISTED)
    ]
    raise CheckpointRefused(
        f"it holds no state dict: neither tensors nor one under {wrappers}; "
        f"its keys are {', '.join(kinds) or 'none'}"
    )
