"""Read a pickle without unpickling it: an opcode machine that builds inert nodes only.

It imports nothing, calls nothing and knows no class. The work and memory it may use are
bounded, whatever the bytes say.
"""

import struct
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tracksided.checkpoints.formats.pickle_machine import (
    CALL_BYTES,
    LIST_BYTES,
    NODE_BYTES,
    PAIR_BYTES,
    SLOT_BYTES,
    Machine,
)
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

MAX_PICKLE_BYTES = 64 << 20  # 200,000 tensors need about 60 MB
MAX_INTEGER_BYTES = 64  # states of random generators have 17; Python prints 4300 digits at most


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
    machine = Machine(pickled)
    try:
        root = _run(machine)
    except (IndexError, KeyError, struct.error, UnicodeError, ValueError) as error:
        raise CheckpointRefused(
            f"its pickle is malformed near byte {machine.position}: {error}"
        ) from error
    return InertPickle(root, machine.protocol)


def _run(machine: Machine) -> Node:
    """Execute opcodes until STOP and return what is on top."""
    handlers = _HANDLERS
    while True:
        code = machine.take(1)[0]
        if code == _STOP:
            root = machine.pop()
            if not machine.is_empty:
                raise ValueError("values are left on the stack")
            return root
        handler = handlers.get(code)
        if handler is None:
            raise CheckpointRefused(_unread(code))
        handler(machine)


def _boolean(value: bool) -> Callable[[Machine], None]:  # noqa: FBT001 - it is the value
    return lambda m: m.push(value)


def _unread(code: int) -> str:
    """Say what an opcode that is not read is a sign of, and what to do."""
    if code in _TEXT_OPCODES:
        return (
            f"its pickle has protocol 0 or 1 (opcode 0x{code:02x}); load it and save it again "
            "with torch.save's default protocol"
        )
    if code in _EXTENSION_OPCODES:
        return f"its pickle uses copyreg's extension registry (opcode 0x{code:02x}), not read here"
    if code in _BUFFER_OPCODES:
        return f"its pickle keeps buffers outside of itself (opcode 0x{code:02x}), not read here"
    return f"its pickle is malformed: 0x{code:02x} is no opcode"


def _integer(m: Machine, layout: struct.Struct) -> None:
    m.push_atom(m.number(layout))


def _long(m: Machine, layout: struct.Struct) -> None:
    nbytes = m.number(layout)
    if nbytes > MAX_INTEGER_BYTES:
        raise CheckpointRefused(
            f"its pickle holds an integer of {nbytes} bytes, {MAX_INTEGER_BYTES} are read here"
        )
    m.push_atom(int.from_bytes(m.take(nbytes), "little", signed=True))


def _float(m: Machine) -> None:
    m.push_atom(struct.unpack(">d", m.take(8))[0])


def _text(m: Machine, layout: struct.Struct) -> None:
    m.push_atom(m.sized(layout).decode("utf-8", "surrogatepass"))


def _short_binstring(m: Machine) -> None:
    m.push_atom(m.sized(_U8).decode("latin-1"))


def _bytes(m: Machine, layout: struct.Struct) -> None:
    m.push_atom(m.sized(layout))


def _bytearray(m: Machine) -> None:
    """Stand for it by the call that older protocols make of it."""
    content = m.sized(_U64)
    m.hold(sys.getsizeof(content))
    call = CallNode(Global("builtins", "bytearray"), TupleNode((content,)))
    m.push(call, CALL_BYTES + _TUPLE_BYTES + NODE_BYTES)


def _global(m: Machine) -> None:
    module, name = m.line(), m.line()
    m.push(Global(module, name), NODE_BYTES + sys.getsizeof(module) + sys.getsizeof(name))


def _stack_global(m: Machine) -> None:
    module, name = m.pop_exactly(2)
    if not isinstance(module, str) or not isinstance(name, str):
        raise ValueError("a global's name is not text")  # noqa: TRY004 - malformed
    # No class has such a name, and it could not be written again.
    if "\n" in module or "\n" in name:
        raise ValueError("a global's name holds a newline")
    (module + name).encode()
    m.push(Global(module, name), NODE_BYTES)


def _tuple_of(count: int) -> Callable[[Machine], None]:
    return lambda m: m.push(TupleNode(m.pop_exactly(count)), _TUPLE_BYTES)


def _append_all(m: Machine, items: list[Node]) -> None:
    target = m.top()
    if not isinstance(target, ListNode | CallNode):
        raise ValueError("items are appended to what is not a list")  # noqa: TRY004 - malformed
    if target.items is None:
        m.hold(LIST_BYTES)
        target.items = []
    m.hold(SLOT_BYTES * len(items))
    target.items.extend(items)


def _set_all(m: Machine, target: Node, items: list[Node]) -> None:
    if not isinstance(target, DictNode | CallNode):
        raise ValueError("items are set on what is not a dict")  # noqa: TRY004 - malformed
    if len(items) % 2:
        raise ValueError("a key has no value")
    m.hold(PAIR_BYTES * len(items) // 2)
    if target.pairs is None:
        m.hold(LIST_BYTES)
        target.pairs = []
    target.pairs.extend(zip(items[::2], items[1::2], strict=True))


def _append(m: Machine) -> None:
    item = m.pop()
    _append_all(m, [item])


def _appends(m: Machine) -> None:
    items = m.pop_run()
    _append_all(m, items)


def _set_item(m: Machine) -> None:
    pair = m.pop_exactly(2)
    _set_all(m, m.top(), list(pair))


def _set_items(m: Machine) -> None:
    items = m.pop_run()
    _set_all(m, m.top(), items)


def _dict(m: Machine) -> None:
    node = DictNode()
    _set_all(m, node, m.pop_run())
    m.push(node, _CONTAINER_BYTES)


def _add_items(m: Machine) -> None:
    items = m.pop_run()
    target = m.top()
    if not isinstance(target, SetNode):
        raise ValueError("items are added to what is not a set")  # noqa: TRY004 - malformed
    target.items.extend(items)


def _reduce(m: Machine) -> None:
    function, arguments = m.pop_exactly(2)
    m.push(CallNode(function, arguments), CALL_BYTES)


def _newobj(m: Machine) -> None:
    function, arguments = m.pop_exactly(2)
    m.push(CallNode(function, arguments, is_new=True), CALL_BYTES)


def _newobj_ex(m: Machine) -> None:
    function, arguments, keywords = m.pop_exactly(3)
    m.push(CallNode(function, arguments, keywords, is_new=True), CALL_BYTES)


def _build(m: Machine) -> None:
    state = m.pop()
    target = m.top()
    if not isinstance(target, CallNode) or target.has_state:
        raise ValueError("state is given to what can have none")
    target.state = state
    target.has_state = True


def _skip_frame(m: Machine) -> None:
    m.number(_U64)  # the length of a frame is only a hint for readers of streams


def _discard(m: Machine) -> None:
    m.pop()


def _discard_run(m: Machine) -> None:
    m.pop_run()


_CONTAINER_BYTES = NODE_BYTES + LIST_BYTES
_TUPLE_BYTES = _CONTAINER_BYTES + 3 * SLOT_BYTES
_STOP = ord(".")
_TEXT_OPCODES = frozenset(b"FILPSTVgiop")  # T, of Python 2, with them
_EXTENSION_OPCODES = frozenset({0x82, 0x83, 0x84})
_BUFFER_OPCODES = frozenset({0x97, 0x98})
_U8, _U16, _I32 = struct.Struct("<B"), struct.Struct("<H"), struct.Struct("<i")
_U32, _U64 = struct.Struct("<I"), struct.Struct("<Q")

_HANDLERS: Mapping[int, Callable[[Machine], None]] = {
    0x80: Machine.set_protocol,
    0x95: _skip_frame,
    ord("N"): lambda m: m.push(None),
    0x88: _boolean(True),  # noqa: FBT003 - it is the value
    0x89: _boolean(False),  # noqa: FBT003 - it is the value
    ord("J"): lambda m: _integer(m, _I32),
    ord("K"): lambda m: m.push(m.number(_U8)),  # the interpreter has these already
    ord("M"): lambda m: _integer(m, _U16),
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
    0x96: _bytearray,
    ord("c"): _global,
    0x93: _stack_global,
    ord("("): Machine.mark,
    ord(")"): lambda m: m.push(TupleNode(()), NODE_BYTES),
    ord("t"): lambda m: m.push(TupleNode(tuple(m.pop_run())), _CONTAINER_BYTES),
    0x85: _tuple_of(1),
    0x86: _tuple_of(2),
    0x87: _tuple_of(3),
    ord("]"): lambda m: m.push(ListNode(), _CONTAINER_BYTES),
    ord("l"): lambda m: m.push(ListNode(m.pop_run()), _CONTAINER_BYTES),
    ord("a"): _append,
    ord("e"): _appends,
    ord("}"): lambda m: m.push(DictNode(), _CONTAINER_BYTES),
    ord("d"): _dict,
    ord("s"): _set_item,
    ord("u"): _set_items,
    0x8F: lambda m: m.push(SetNode(), _CONTAINER_BYTES),
    0x90: _add_items,
    0x91: lambda m: m.push(FrozenSetNode(tuple(m.pop_run())), _CONTAINER_BYTES),
    ord("R"): _reduce,
    0x81: _newobj,
    0x92: _newobj_ex,
    ord("b"): _build,
    ord("Q"): lambda m: m.push(PersistentNode(m.pop()), NODE_BYTES),
    ord("q"): lambda m: m.memoize(m.number(_U8)),
    ord("r"): lambda m: m.memoize(m.number(_U32)),
    0x94: Machine.memoize_next,
    ord("h"): lambda m: m.recall(m.number(_U8)),
    ord("j"): lambda m: m.recall(m.number(_U32)),
    ord("0"): _discard,
    ord("1"): _discard_run,
    ord("2"): lambda m: m.push(m.top()),
}
