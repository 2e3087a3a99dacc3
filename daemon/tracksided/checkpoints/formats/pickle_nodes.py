"""Inert nodes that stand for what a pickle would have built.

Nothing here is a live object: a class is two strings, a call is its arguments. Nodes compare
by identity, because shared references must stay shared when the pickle is written again.
"""

from dataclasses import dataclass, field
from typing import TypeAlias

Atom: TypeAlias = bool | int | float | str | bytes | None


@dataclass(frozen=True, slots=True, eq=False)
class Global:
    """The name of a class or function; it is never imported."""

    module: str
    name: str

    @property
    def path(self) -> str:
        """Dotted name."""
        return f"{self.module}.{self.name}"


@dataclass(frozen=True, slots=True, eq=False)
class TupleNode:
    """A tuple."""

    items: tuple["Node", ...]


@dataclass(frozen=True, slots=True, eq=False)
class FrozenSetNode:
    """A frozenset."""

    items: tuple["Node", ...]


@dataclass(frozen=True, slots=True, eq=False)
class PersistentNode:
    """A persistent id; torch names its storages this way."""

    identity: "Node"


@dataclass(slots=True, eq=False)
class ListNode:
    """A list."""

    items: list["Node"] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class SetNode:
    """A set."""

    items: list["Node"] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class DictNode:
    """A dict, in order."""

    pairs: list[tuple["Node", "Node"]] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class CallNode:
    """A call that unpickling would have made, and what would have been done to its result."""

    function: "Node"
    arguments: "Node"
    keywords: "Node" = None
    """Only of `NEWOBJ_EX`."""

    is_new: bool = False
    """``cls.__new__(cls, *arguments)`` instead of ``function(*arguments)``."""

    items: list["Node"] = field(default_factory=list)
    """Appended to the result."""

    pairs: list[tuple["Node", "Node"]] = field(default_factory=list)
    """Set on the result as items."""

    state: "Node" = None
    has_state: bool = False


Node: TypeAlias = (
    Atom
    | Global
    | TupleNode
    | FrozenSetNode
    | PersistentNode
    | ListNode
    | SetNode
    | DictNode
    | CallNode
)

MAPPING_CLASSES = frozenset(
    {
        "collections.OrderedDict",
        "collections.defaultdict",
        "builtins.dict",
        "__builtin__.dict",
    }
)


def mapping_pairs(node: Node) -> list[tuple[Node, Node]] | None:
    """Return the pairs of a dict or of an instance of a well-known dict class, else None."""
    if isinstance(node, DictNode):
        return node.pairs
    if isinstance(node, CallNode) and isinstance(node.function, Global):
        return node.pairs if node.function.path in MAPPING_CLASSES or node.pairs else None
    return None


def global_path(node: Node) -> str:
    """Return the dotted name of a global, or an empty string."""
    return node.path if isinstance(node, Global) else ""
