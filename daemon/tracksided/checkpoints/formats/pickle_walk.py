"""Walk through the inert nodes of a pickle, which share parts and may hold themselves."""

from collections.abc import Callable, Iterator

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


def is_below(root: Node, is_it: Callable[[Node], bool], known: set[int]) -> bool:
    """Whether a node is it, or holds it anywhere.

    Args:
        root: the node.
        is_it: asked of every node that is reachable, apart from atoms and globals.
        known: identities of nodes that are known not to be or hold it; learns those that are not.
    """
    seen: set[int] = set()
    pending = [root] if has_parts(root) else []
    while pending:
        current = pending.pop()
        if id(current) in seen or id(current) in known:
            continue
        if is_it(current):
            return True
        seen.add(id(current))
        pending.extend(parts_of(current))
    known |= seen
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
