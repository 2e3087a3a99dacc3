"""Read a pickle without unpickling it: an opcode machine that builds inert nodes only.

It imports nothing, calls nothing and knows no class. The work and memory it may use are
bounded, whatever the bytes say.
"""

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tracksided.checkpoints.formats.pickle_nodes import (
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
from tracksided.errors import CheckpointRefused

MAX_PICKLE_BYTES = 64 << 20  # 100,000 tensors need about 30 MB
MAX_NODES = 4_000_000  # about 100 bytes each: bounds the memory of a hostile pickle
MAX_GLOBAL_BYTES = 1024  # a dotted name
MAX_PROTOCOL = 5


class _Mark:
    """Its one instance on the stack marks where a run of items begins."""


_MARK = _Mark()


@dataclass(frozen=True, slots=True)
class InertPickle:
    """What a pickle holds."""

    root: Node
    protocol: int


def read_pickle(pickled: bytes) -> InertPickle:
    """Build the nodes of one pickle.

    Raises:
        CheckpointRefused: it is malformed, too large, or uses an opcode that torch never writes.
    """
    if len(pickled) > MAX_PICKLE_BYTES:
        raise CheckpointRefused(
            f"its pickle has {len(pickled)} bytes, more than the {MAX_PICKLE_BYTES} read here"
        )
    machine = _Machine(pickled)
    try:
        root = machine.run()
    except (IndexError, KeyError, struct.error, UnicodeDecodeError, ValueError) as error:
        raise CheckpointRefused(
            f"its pickle is malformed near byte {machine.position}: {error}"
        ) from error
    return InertPickle(root, machine.protocol)


class _Machine:
    """Stack, memo and position. Malformed input surfaces as the errors `read_pickle` names."""

    def __init__(self, pickled: bytes) -> None:
        self.position = 0
        self.protocol = 0
        self._pickled = pickled
        self._stack: list[Node | _Mark] = []
        self._memo: dict[int, Node] = {}
        self._num_nodes = 0

    def run(self) -> Node:
        """Execute opcodes until STOP and return what is on top."""
        handlers = _HANDLERS
        while True:
            code = self.take(1)[0]
            if code == _STOP:
                root = self.pop()
                if self._stack:
                    raise ValueError("values are left on the stack")
                return root
            handler = handlers.get(code)
            if handler is None:
                raise CheckpointRefused(f"its pickle uses opcode 0x{code:02x}, which is not read")
            handler(self)

    def take(self, count: int) -> bytes:
        """Read exactly ``count`` bytes."""
        end = self.position + count
        if count < 0 or end > len(self._pickled):
            raise ValueError("it ends too early")
        taken = self._pickled[self.position : end]
        self.position = end
        return taken

    def number(self, layout: struct.Struct) -> int:
        """Read one unsigned or signed integer."""
        value: int = layout.unpack(self.take(layout.size))[0]
        return value

    def sized(self, layout: struct.Struct) -> bytes:
        """Read a length and that many bytes."""
        return self.take(self.number(layout))

    def line(self) -> str:
        """Read up to the next newline."""
        end = self._pickled.index(b"\n", self.position, self.position + MAX_GLOBAL_BYTES)
        text = self._pickled[self.position : end]
        self.position = end + 1
        return text.decode("utf-8")

    def push(self, node: Node) -> None:
        """Put a new value on the stack and count it."""
        self._num_nodes += 1
        if self._num_nodes > MAX_NODES:
            raise CheckpointRefused(f"its pickle holds more than {MAX_NODES} objects")
        self._stack.append(node)

    def pop(self) -> Node:
        """Take the value on top."""
        node = self._stack.pop()
        if isinstance(node, _Mark):
            raise ValueError("a mark stands where a value is expected")  # noqa: TRY004 - malformed
        return node

    def top(self) -> Node:
        """Look at the value on top."""
        node = self._stack[-1]
        if isinstance(node, _Mark):
            raise ValueError("a mark stands where a value is expected")  # noqa: TRY004 - malformed
        return node

    def mark(self) -> None:
        """Begin a run of items."""
        self._num_nodes += 1
        self._stack.append(_MARK)

    def pop_run(self) -> list[Node]:
        """Take everything above the last mark, and the mark."""
        items: list[Node] = []
        while True:
            node = self._stack.pop()
            if isinstance(node, _Mark):
                items.reverse()
                return items
            items.append(node)

    def pop_exactly(self, count: int) -> tuple[Node, ...]:
        """Take ``count`` values, in the order they were pushed."""
        items = [self.pop() for _ in range(count)]
        return tuple(reversed(items))

    def memoize(self, index: int) -> None:
        """Remember the value on top."""
        self._memo[index] = self.top()

    def memoize_next(self) -> None:
        """Remember the value on top under the next free index."""
        self._memo[len(self._memo)] = self.top()

    def recall(self, index: int) -> None:
        """Push a remembered value again."""
        self.push(self._memo[index])

    def set_protocol(self) -> None:
        """Read the protocol's number."""
        self.protocol = self.take(1)[0]
        if self.protocol > MAX_PROTOCOL:
            raise CheckpointRefused(f"its pickle has protocol {self.protocol}, 5 is the last read")


def _boolean(value: bool) -> Callable[[_Machine], None]:  # noqa: FBT001 - it is the value
    return lambda m: m.push(value)


def _long(m: _Machine, layout: struct.Struct) -> None:
    m.push(int.from_bytes(m.sized(layout), "little", signed=True))


def _float(m: _Machine) -> None:
    m.push(struct.unpack(">d", m.take(8))[0])


def _text(m: _Machine, layout: struct.Struct) -> None:
    m.push(m.sized(layout).decode("utf-8", "surrogatepass"))


def _short_binstring(m: _Machine) -> None:
    m.push(m.sized(_U8).decode("latin-1"))


def _bytes(m: _Machine, layout: struct.Struct) -> None:
    m.push(m.sized(layout))


def _global(m: _Machine) -> None:
    m.push(Global(m.line(), m.line()))


def _stack_global(m: _Machine) -> None:
    module, name = m.pop_exactly(2)
    if not isinstance(module, str) or not isinstance(name, str):
        raise ValueError("a global's name is not text")  # noqa: TRY004 - malformed
    if "\n" in module or "\n" in name:
        raise ValueError(
            "a global's name holds a newline"
        )  # no class has one; it cannot be rewritten
    m.push(Global(module, name))


def _tuple_of(count: int) -> Callable[[_Machine], None]:
    return lambda m: m.push(TupleNode(m.pop_exactly(count)))


def _append_all(target: Node, items: list[Node]) -> None:
    if not isinstance(target, ListNode | CallNode):
        raise ValueError("items are appended to what is not a list")  # noqa: TRY004 - malformed
    target.items.extend(items)


def _set_all(target: Node, items: list[Node]) -> None:
    if not isinstance(target, DictNode | CallNode):
        raise ValueError("items are set on what is not a dict")  # noqa: TRY004 - malformed
    if len(items) % 2:
        raise ValueError("a key has no value")
    target.pairs.extend(zip(items[::2], items[1::2], strict=True))


def _append(m: _Machine) -> None:
    item = m.pop()
    _append_all(m.top(), [item])


def _appends(m: _Machine) -> None:
    items = m.pop_run()
    _append_all(m.top(), items)


def _set_item(m: _Machine) -> None:
    pair = m.pop_exactly(2)
    _set_all(m.top(), list(pair))


def _set_items(m: _Machine) -> None:
    items = m.pop_run()
    _set_all(m.top(), items)


def _dict(m: _Machine) -> None:
    node = DictNode()
    _set_all(node, m.pop_run())
    m.push(node)


def _add_items(m: _Machine) -> None:
    items = m.pop_run()
    target = m.top()
    if not isinstance(target, SetNode):
        raise ValueError("items are added to what is not a set")  # noqa: TRY004 - malformed
    target.items.extend(items)


def _reduce(m: _Machine) -> None:
    function, arguments = m.pop_exactly(2)
    m.push(CallNode(function, arguments))


def _newobj(m: _Machine) -> None:
    function, arguments = m.pop_exactly(2)
    m.push(CallNode(function, arguments, is_new=True))


def _newobj_ex(m: _Machine) -> None:
    function, arguments, keywords = m.pop_exactly(3)
    m.push(CallNode(function, arguments, keywords, is_new=True))


def _build(m: _Machine) -> None:
    state = m.pop()
    target = m.top()
    if not isinstance(target, CallNode) or target.has_state:
        raise ValueError("state is given to what can have none")
    target.state = state
    target.has_state = True


def _skip_frame(m: _Machine) -> None:
    m.number(_U64)  # the length of a frame is only a hint for readers of streams


def _discard(m: _Machine) -> None:
    m.pop()


def _discard_run(m: _Machine) -> None:
    m.pop_run()


_STOP = ord(".")
_U8, _U16, _I32 = struct.Struct("<B"), struct.Struct("<H"), struct.Struct("<i")
_U32, _U64 = struct.Struct("<I"), struct.Struct("<Q")

_HANDLERS: Mapping[int, Callable[[_Machine], None]] = {
    0x80: _Machine.set_protocol,
    0x95: _skip_frame,
    ord("N"): lambda m: m.push(None),
    0x88: _boolean(True),  # noqa: FBT003 - it is the value
    0x89: _boolean(False),  # noqa: FBT003 - it is the value
    ord("J"): lambda m: m.push(m.number(_I32)),
    ord("K"): lambda m: m.push(m.number(_U8)),
    ord("M"): lambda m: m.push(m.number(_U16)),
    0x8A: lambda m: _long(m, _U8),
    0x8B: lambda m: _long(m, _U32),
    ord("G"): _float,
    ord("X"): lambda m: _text(m, _U32),
    0x8C: lambda m: _text(m, _U8),
    0x8D: lambda m: _text(m, _U64),
    ord("U"): _short_binstring,
    ord("B"): lambda m: _bytes(m, _U32),
    ord("C"): lambda m: _bytes(m, _U8),
    0x8E: lambda m: _bytes(m, _U64),
    ord("c"): _global,
    0x93: _stack_global,
    ord("("): _Machine.mark,
    ord(")"): lambda m: m.push(TupleNode(())),
    ord("t"): lambda m: m.push(TupleNode(tuple(m.pop_run()))),
    0x85: _tuple_of(1),
    0x86: _tuple_of(2),
    0x87: _tuple_of(3),
    ord("]"): lambda m: m.push(ListNode()),
    ord("l"): lambda m: m.push(ListNode(m.pop_run())),
    ord("a"): _append,
    ord("e"): _appends,
    ord("}"): lambda m: m.push(DictNode()),
    ord("d"): _dict,
    ord("s"): _set_item,
    ord("u"): _set_items,
    0x8F: lambda m: m.push(SetNode()),
    0x90: _add_items,
    0x91: lambda m: m.push(FrozenSetNode(tuple(m.pop_run()))),
    ord("R"): _reduce,
    0x81: _newobj,
    0x92: _newobj_ex,
    ord("b"): _build,
    ord("Q"): lambda m: m.push(PersistentNode(m.pop())),
    ord("q"): lambda m: m.memoize(m.number(_U8)),
    ord("r"): lambda m: m.memoize(m.number(_U32)),
    0x94: _Machine.memoize_next,
    ord("h"): lambda m: m.recall(m.number(_U8)),
    ord("j"): lambda m: m.recall(m.number(_U32)),
    ord("0"): _discard,
    ord("1"): _discard_run,
    ord("2"): lambda m: m.push(m.top()),
}
