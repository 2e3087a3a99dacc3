"""Walk through the inert nodes of a pickle, which share parts and may hold themselves."""

from collections.abc import Callable, Iterable, Iterator

from tracksided.checkpoints.formats.pickle_nodes import (
    CallNode,
    DictNode,
    FrozenSetNode,
    ListNode,
    Node,
    PersistentNode,
    SetNode,
    TupleNode,
)
from tracksided.errors import CheckpointRefused

MAX_VISITS = 10_000_000  # of nodes; a pickle of 200,000 tensors has some 3 million

# Looked up by exact type, many million times in a large pickle.
_WITH_PARTS = frozenset(
    {TupleNode, FrozenSetNode, PersistentNode, ListNode, SetNode, DictNode, CallNode}
)


def has_parts(node: Node) -> bool:
    """Whether a node is neither an atom nor a global."""
    return type(node) in _WITH_PARTS


def parts_of(node: Node) -> list[Node]:
    """Return what a node is made of, apart from atoms and globals."""
    return [child for child in _children(node) if type(child) in _WITH_PARTS]


def nodes_below(root: Node, seen: set[int]) -> Iterator[Node]:
    """Yield every node that is reachable and was not seen, apart from atoms and globals.

    Args:
        root: where to begin; it is yielded, too.
        seen: identities of what earlier walks went through; this one adds its own.
    """
    pending: list[Node] = [root] if has_parts(root) else []
    while pending:
        current = pending.pop()
        if id(current) in seen:
            continue
        yield current
        children = parts_of(current)
        if children:  # what has none may as well be met again, which takes no memory
            seen.add(id(current))
            pending.extend(children)


class Search:
    """Tells of the nodes of one pickle whether they are, or hold anywhere, what is looked for."""

    def __init__(
        self,
        is_it: Callable[[Node], bool],
        enter: Callable[[Node], Iterable[Node]] = parts_of,
    ) -> None:
        """Begin with no knowledge.

        Args:
            is_it: whether a node is what is looked for; never asked of atoms and globals.
            enter: which parts of a node are looked at, too.
        """
        self._is_it = is_it
        self._enter = enter
        self._with: set[int] = set()
        self._without: set[int] = set()
        self._left = MAX_VISITS

    def finds_in(self, root: Node) -> bool:
        """Whether a node is it, or holds it.

        Raises:
            CheckpointRefused: all searches together took too long.
        """
        if id(root) in self._with:
            return True
        seen: set[int] = set()
        pending = [root] if has_parts(root) else []
        while pending:
            current = pending.pop()
            if id(current) in seen or id(current) in self._without:
                continue
            if self._is_it(current):
                self._with.add(id(root))
                return True
            seen.add(id(current))
            pending.extend(self._enter(current))
            self._left -= 1
            if not self._left:
                raise CheckpointRefused("its entries share their parts in too many ways")
        self._without |= seen
        return False


def _children(node: Node) -> list[Node]:
    match node:
        case TupleNode() | FrozenSetNode():
            return list(node.items)
        case ListNode() | SetNode():
            return node.items
        case DictNode():
            return [part for pair in node.pairs for part in pair]
        case CallNode():
            inside = [part for pair in node.pairs or [] for part in pair]
            items = node.items or []
            return [node.function, node.arguments, node.keywords, node.state, *items, *inside]
        case _:
            return []
