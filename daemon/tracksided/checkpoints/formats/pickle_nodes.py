"""Inert nodes that stand for what a pickle would have built.

Nothing here is a live object: a class is two strings, a call is its arguments. Nodes compare
by identity, because shared references must stay shared when the pickle is written again. They
share parts, too: a few hundred bytes may stand for a tree of 2 ** 60 leaves. So a node is never
written out in full into a message, and not into a name either.
"""

from dataclasses import dataclass, field
from typing import TypeAlias

from tracksided.checkpoints.shown import shown
from tracksided.errors import CheckpointRefused

MAX_NAME_CHARACTERS = 1000  # module paths have some 100

Atom: TypeAlias = bool | int | float | str | bytes | None


class _Inert:
    """What all nodes have in common."""

    __slots__ = ()

    def __repr__(self) -> str:
        """Say what it is, without what is in it."""
        return f"<{type(self).__name__.removesuffix('Node').lower()}>"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Global(_Inert):
    """The name of a class or function; it is never imported."""

    module: str
    name: str

    @property
    def path(self) -> str:
        """Dotted name."""
        return f"{self.module}.{self.name}"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class TupleNode(_Inert):
    """A tuple."""

    items: tuple["Node", ...]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class FrozenSetNode(_Inert):
    """A frozenset."""

    items: tuple["Node", ...]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class PersistentNode(_Inert):
    """A persistent id; torch names its storages this way."""

    identity: "Node"


@dataclass(slots=True, eq=False, repr=False)
class ListNode(_Inert):
    """A list."""

    items: list["Node"] = field(default_factory=list)


@dataclass(slots=True, eq=False, repr=False)
class SetNode(_Inert):
    """A set."""

    items: list["Node"] = field(default_factory=list)


@dataclass(slots=True, eq=False, repr=False)
class DictNode(_Inert):
    """A dict, in order."""

    pairs: list[tuple["Node", "Node"]] = field(default_factory=list)


@dataclass(slots=True, eq=False, repr=False)
class CallNode(_Inert):
    """A call that unpickling would have made, and what would have been done to its result."""

    function: "Node"
    arguments: "Node"
    keywords: "Node" = None
    """Only of `NEWOBJ_EX`."""

    is_new: bool = False
    """``cls.__new__(cls, *arguments)`` instead of ``function(*arguments)``."""

    items: list["Node"] | None = None
    """Appended to the result; None where nothing is, as for almost all."""

    pairs: list[tuple["Node", "Node"]] | None = None
    """Set on the result as items; None as above."""

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
        return node.pairs or ([] if node.function.path in MAPPING_CLASSES else None)
    return None


def text_entries(node: Node) -> dict[str, Node]:
    """Return what a mapping holds under keys that are text; of anything else, nothing."""
    return {key: value for key, value in mapping_pairs(node) or [] if isinstance(key, str)}


def global_path(node: Node) -> str:
    """Return the dotted name of a global, or an empty string."""
    return node.path if isinstance(node, Global) else ""


def describe(node: Node) -> str:
    """Say in a message what a node is: short, whatever it holds."""
    match node:
        case str():
            return shown(node)
        case bytes():
            return f"{len(node)} bytes"
        case Global():
            return shown(node.path)
        case CallNode():
            path = global_path(node.function)
            return f"an object made by {shown(path) if path else 'a call'}"
        case TupleNode() | ListNode() | SetNode() | FrozenSetNode() | DictNode():
            return f"a {repr(node).strip('<>')}"
        case _:
            return repr(node)


def key_name(key: Node) -> str:
    """Write a key as a part of a tensor's name: text as it is, all else between angle brackets.

    Keys with equal names may still differ: of an object only its class and arguments are written.

    Raises:
        CheckpointRefused: it would be longer than `MAX_NAME_CHARACTERS`.
    """
    if isinstance(key, str):
        return key
    pending: list[Node | _Text] = [_Text(">"), key, _Text("<")]
    written: list[str] = []
    length = 0
    while pending:
        node = pending.pop()
        match node:
            case _Text(text):
                piece = text
            case Global():
                piece = node.path
            case CallNode():
                piece = ""
                pending += [node.arguments, node.function]
            case PersistentNode():
                piece = "persistent "
                pending.append(node.identity)
            case TupleNode() | FrozenSetNode() | ListNode() | SetNode():
                piece = "("
                pending.append(_Text(")"))
                between = [part for item in node.items for part in (_Text(", "), item)]
                pending += reversed(between[1:])
            case DictNode():
                piece = repr(node)
            case _:
                piece = _atom_text(node)
        written.append(piece)
        length += len(piece) + 1  # also of an empty piece, so that the work is bounded
        if length + len(pending) > MAX_NAME_CHARACTERS:
            raise CheckpointRefused(f"a key is longer than {MAX_NAME_CHARACTERS} characters")
    return "".join(written)


@dataclass(frozen=True, slots=True)
class _Text:
    """A piece of a name, between the nodes."""

    text: str


def _atom_text(node: Node) -> str:
    if isinstance(node, str | bytes) and len(node) > MAX_NAME_CHARACTERS:
        raise CheckpointRefused(f"a key is longer than {MAX_NAME_CHARACTERS} characters")
    return repr(node)
