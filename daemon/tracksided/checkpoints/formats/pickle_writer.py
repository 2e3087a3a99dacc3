"""Write inert nodes as a pickle again."""

import struct
from collections.abc import Iterator
from io import BytesIO

from tracksided.checkpoints.formats.pickle_nodes import (
    Atom,
    CallNode,
    DictNode,
    FrozenSetNode,
    Global,
    ListNode,
    Node,
    PersistentNode,
    SetNode,
    TupleNode,
)
from tracksided.checkpoints.shown import shown
from tracksided.errors import CheckpointRefused

MIN_PROTOCOL = 2  # what torch.save writes; its weights-only reader knows little beyond
BATCH = 1000  # items at once, as Python's own pickler: readers hold them on their stack
MAX_DEPTH = 10_000  # nesting of open containers, far beyond what Python's own pickler reaches

_U8_MAX, _U16_MAX = 0xFF, 0xFFFF
_INT32_MIN, _INT32_MAX = -(1 << 31), (1 << 31) - 1
_SHORT_TUPLES = {1: b"\x85", 2: b"\x86", 3: b"\x87"}

Step = Iterator[Node]
"""A suspended container: it yields the children to be written next."""


def write_pickle(root: Node, protocol: int) -> bytes:
    """Write ``root`` so that shared nodes stay shared.

    Raises:
        CheckpointRefused: a tuple or call contains itself, or the nesting is too deep.
    """
    writer = _Writer(max(MIN_PROTOCOL, protocol))
    writer.write(root)
    return writer.finish()


class _Writer:
    """Walks the nodes with its own stack: a deep pickle must not exhaust Python's."""

    def __init__(self, protocol: int) -> None:
        self._out = BytesIO()
        self._out.write(b"\x80" + bytes([protocol]))
        self._memo: dict[int, int] = {}
        self._strings: dict[str, int] = {}
        self._open: set[int] = set()
        self._next_index = 0

    def finish(self) -> bytes:
        """Return the whole pickle."""
        self._out.write(b".")
        return self._out.getvalue()

    def write(self, root: Node) -> None:
        """Write one node and all below it."""
        pending: list[Step] = [iter((root,))]
        while pending:
            if len(pending) > MAX_DEPTH:
                raise CheckpointRefused(f"its pickle is nested deeper than {MAX_DEPTH}")
            try:
                node = next(pending[-1])
            except StopIteration:
                pending.pop()
                continue
            step = self._begin(node)
            if step is not None:
                pending.append(step)

    def _begin(self, node: Node) -> Step | None:
        """Write a node without children, or return the rest of the work on one that has some."""
        if isinstance(node, str):
            self._text(node)
            return None
        if node is None or isinstance(node, bool | int | float | bytes):
            self._atom(node)
            return None
        known = self._memo.get(id(node))
        if known is not None:
            self._recall(known)
            return None
        if isinstance(node, Global):
            self._out.write(b"c" + _line(node.module) + _line(node.name))
            self._remember(node)
            return None
        return self._container(node)

    def _container(
        self,
        node: TupleNode | FrozenSetNode | PersistentNode | ListNode | SetNode | DictNode | CallNode,
    ) -> Step:
        match node:
            case ListNode():
                step = self._mutable(node, b"]", node.items, [])
            case DictNode():
                step = self._mutable(node, b"}", [], node.pairs)
            case SetNode():
                step = self._set(node)
            case CallNode():
                step = self._call(node)
            case PersistentNode():
                step = self._closed(node, (node.identity,), b"", b"Q")
            case FrozenSetNode():
                step = self._closed(node, node.items, b"(", b"\x91")
            case TupleNode(items) if not items:
                step = self._closed(node, (), b"", b")")
            case TupleNode(items):
                short = _SHORT_TUPLES.get(len(items))
                step = self._closed(node, items, b"" if short else b"(", short or b"t")
        return step

    def _closed(self, node: Node, items: tuple[Node, ...], begin: bytes, end: bytes) -> Step:
        """Write a value that exists only after its parts do."""
        self._enter(node)
        self._out.write(begin)
        yield from items
        self._out.write(end)
        self._leave(node)

    def _mutable(
        self, node: Node, empty: bytes, items: list[Node], pairs: list[tuple[Node, Node]]
    ) -> Step:
        self._out.write(empty)
        self._remember(node)
        yield from self._contents(items, pairs)

    def _set(self, node: SetNode) -> Step:
        self._out.write(b"\x8f")
        self._remember(node)
        for start in range(0, len(node.items), BATCH):
            self._out.write(b"(")
            yield from node.items[start : start + BATCH]
            self._out.write(b"\x90")

    def _call(self, node: CallNode) -> Step:
        self._enter(node)
        yield node.function
        yield node.arguments
        if node.is_new and node.keywords is not None:
            yield node.keywords
            self._out.write(b"\x92")
        else:
            self._out.write(b"\x81" if node.is_new else b"R")
        self._leave(node)
        yield from self._contents(node.items or [], node.pairs or [])
        if node.has_state:
            yield node.state
            self._out.write(b"b")

    def _contents(self, items: list[Node], pairs: list[tuple[Node, Node]]) -> Step:
        for start in range(0, len(items), BATCH):
            self._out.write(b"(")
            yield from items[start : start + BATCH]
            self._out.write(b"e")
        for start in range(0, len(pairs), BATCH):
            self._out.write(b"(")
            for key, value in pairs[start : start + BATCH]:
                yield key
                yield value
            self._out.write(b"u")

    def _enter(self, node: Node) -> None:
        if id(node) in self._open:
            raise CheckpointRefused("its pickle has a tuple or call that contains itself")
        self._open.add(id(node))

    def _leave(self, node: Node) -> None:
        self._open.discard(id(node))
        self._remember(node)

    def _remember(self, node: Node) -> None:
        self._memo[id(node)] = self._put()

    def _put(self) -> int:
        index = self._next_index
        self._next_index += 1
        short = index <= _U8_MAX
        self._out.write(b"q" + bytes([index]) if short else b"r" + struct.pack("<I", index))
        return index

    def _recall(self, index: int) -> None:
        short = index <= _U8_MAX
        self._out.write(b"h" + bytes([index]) if short else b"j" + struct.pack("<I", index))

    def _text(self, text: str) -> None:
        known = self._strings.get(text)
        if known is not None:
            self._recall(known)
            return
        encoded = text.encode("utf-8", "surrogatepass")
        self._out.write(b"X" + struct.pack("<I", len(encoded)) + encoded)
        self._strings[text] = self._put()

    def _atom(self, value: Atom) -> None:
        out = self._out
        if value is None:
            out.write(b"N")
        elif isinstance(value, bool):
            out.write(b"\x88" if value else b"\x89")
        elif isinstance(value, int):
            out.write(_integer(value))
        elif isinstance(value, float):
            out.write(b"G" + struct.pack(">d", value))
        elif isinstance(value, bytes):
            out.write(b"B" + struct.pack("<I", len(value)) + value)


def _integer(value: int) -> bytes:
    if 0 <= value <= _U8_MAX:
        return b"K" + bytes([value])
    if 0 <= value <= _U16_MAX:
        return b"M" + struct.pack("<H", value)
    if _INT32_MIN <= value <= _INT32_MAX:
        return b"J" + struct.pack("<i", value)
    encoded = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    if len(encoded) <= _U8_MAX:
        return b"\x8a" + bytes([len(encoded)]) + encoded
    return b"\x8b" + struct.pack("<I", len(encoded)) + encoded


def _line(text: str) -> bytes:
    if "\n" in text:
        raise CheckpointRefused(f"its pickle names a global {shown(text)} with a newline in it")
    return text.encode() + b"\n"
