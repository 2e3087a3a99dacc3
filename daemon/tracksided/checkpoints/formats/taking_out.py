"""Take entries out of the dicts of a checkpoint, at any depth, and note which."""

from collections.abc import Callable, Iterable
from typing import TypeAlias

from tracksided.checkpoints.formats.pickle_nodes import (
    ListNode,
    Node,
    TupleNode,
    describe,
    mapping_pairs,
)
from tracksided.checkpoints.formats.pickle_walk import has_parts
from tracksided.checkpoints.formats.torch_tensors import is_tensor
from tracksided.checkpoints.shown import unquoted

Path: TypeAlias = tuple[str, ...]
"""Keys from the outermost dict on, as they are shown; no longer than `MAX_PATH`."""

MAX_PATH = 8  # Lightning, fairseq and Composer have 5
_MAX_LISTED = 100  # of what was taken out; a hostile file may have any number

IsOut: TypeAlias = Callable[[Node, Node], bool]
"""Tells from key and value whether an entry of a dict goes; values are never atoms."""


class TakenOut:
    """What was taken out of a checkpoint."""

    def __init__(self) -> None:
        self.paths: list[Path] = []
        self.nodes: list[Node] = []
        self._owners: set[int] = set()
        self._prefixes: set[Path] = set()

    def note(self, owner: Node, path: Path, value: Node) -> None:
        """Note an entry that is taken out of a dict."""
        self.paths.append(path)
        self.nodes.append(value)
        self._owners.add(id(owner))
        self._prefixes.update(path[:length] for length in range(1, len(path) + 1))

    def lost_something(self, owner: Node) -> bool:
        """Whether entries of this very dict were taken out."""
        return id(owner) in self._owners

    def lost_below(self, path: Path) -> bool:
        """Whether what lies at a path was taken out, or something of it."""
        return path in self._prefixes

    def listed(self, outermost: Iterable[Node]) -> tuple[str, ...]:
        """Name what was taken out, in the order of the outermost keys."""
        places = {label(key): place for place, key in enumerate(outermost)} if self.paths else {}
        known = dict.fromkeys(self.paths)
        whole = [
            path
            for path in known
            if not any(path[:length] in known for length in range(1, len(path)))
        ]
        whole.sort(key=lambda path: places.get(path[0], 0))
        names = [".".join(path) for path in whole]
        rest = len(names) - _MAX_LISTED
        return (*names[:_MAX_LISTED], f"and {rest} more") if rest > 0 else tuple(names)


def label(key: Node) -> str:
    """Name a key in the list of what was left out, which is printed."""
    return unquoted(key) if isinstance(key, str) else describe(key)


def longer(path: Path, key: Node) -> Path:
    """Return the path to an entry; beyond `MAX_PATH` it stays that of what holds it."""
    return (*path, label(key)) if len(path) < MAX_PATH else path


def take_out(root: tuple[Path, Node], is_out: IsOut, taken: TakenOut, seen: set[int]) -> None:
    """Take entries out of all dicts below a node, those in lists and tuples too.

    Args:
        root: where to begin, and the path to it.
        is_out: which entries go.
        taken: where they are noted.
        seen: identities of containers that are left alone; all that is gone through is added.

    Raises:
        CheckpointRefused: ``is_out`` raises it.
    """
    pending = [root]
    while pending:
        path, node = pending.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        take_from((path, node), is_out, taken)
        inner = [
            (longer(path, key), value)
            for key, value in _entries(node)
            if has_parts(value) and not is_tensor(value)
        ]
        pending.extend(reversed(inner))


def take_from(owner: tuple[Path, Node], is_out: IsOut, taken: TakenOut) -> None:
    """Take entries out of one dict; nothing where it is none.

    Args:
        owner: the dict, and the path to it.
        is_out: which entries go.
        taken: where they are noted.

    Raises:
        CheckpointRefused: ``is_out`` raises it.
    """
    path, node = owner
    pairs = mapping_pairs(node) or []
    kept: list[tuple[Node, Node]] = []
    for key, value in pairs:
        if has_parts(value) and is_out(key, value):
            taken.note(node, longer(path, key), value)
        else:
            kept.append((key, value))
    pairs[:] = kept


def _entries(node: Node) -> list[tuple[Node, Node]]:
    """Return the entries of a dict, or the items of a list or tuple by their index."""
    pairs = mapping_pairs(node)
    if pairs is not None:
        return pairs
    items = node.items if isinstance(node, ListNode | TupleNode) else ()
    return [(str(index), item) for index, item in enumerate(items)]
