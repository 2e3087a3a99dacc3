"""What runs an inert pickle's opcodes: position, stack, memo, and a bound on their memory."""

import struct
import sys

from tracksided.checkpoints.formats.pickle_nodes import Atom, Node
from tracksided.errors import CheckpointRefused

MAX_HELD_BYTES = 256 << 20  # of nodes and memo; 200,000 tensors need about as much
MAX_STACKED = 1 << 20  # values on the stack: some 24 MB while they become a tuple
MAX_GLOBAL_BYTES = 1024  # a dotted name
MAX_PROTOCOL = 5

# What the interpreter takes for each, rounded up.
SLOT_BYTES = 9  # in a list that grows by an eighth
NODE_BYTES = 48
CALL_BYTES = 112
PAIR_BYTES = 72
LIST_BYTES = 64  # or a tuple; its slots apart


class _Mark:
    """Its one instance on the stack marks where a run of items begins."""


_MARK = _Mark()


class Machine:
    """Stack, memo and position. Malformed input surfaces as the errors `read_pickle` names."""

    def __init__(self, pickled: bytes) -> None:
        self.position = 0
        self.protocol = 0
        self._pickled = pickled
        self._stack: list[Node | _Mark] = []
        self._memo: list[Node] = []
        self._held_bytes = 0

    @property
    def is_empty(self) -> bool:
        """Whether nothing is left on the stack."""
        return not self._stack

    def take(self, count: int) -> bytes:
        """Read exactly ``count`` bytes.

        Raises:
            ValueError: it ends before.
        """
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

    def hold(self, nbytes: int) -> None:
        """Account for memory that is taken; it is never given back, which bounds the work too.

        Raises:
            CheckpointRefused: it is more than `MAX_HELD_BYTES` in all.
        """
        self._held_bytes += nbytes
        if self._held_bytes > MAX_HELD_BYTES:
            raise CheckpointRefused(
                f"its pickle would take more than {MAX_HELD_BYTES >> 20} MiB of memory"
            )

    def push(self, node: Node, nbytes: int = 0) -> None:
        """Put a value on the stack; ``nbytes`` is what it takes itself, 0 where it is shared."""
        self.hold(nbytes)
        self._stack_up(node)

    def _stack_up(self, node: Node | _Mark) -> None:
        if len(self._stack) >= MAX_STACKED:
            raise CheckpointRefused(f"its pickle stacks more than {MAX_STACKED} values")
        self._stack.append(node)

    def push_atom(self, atom: Atom) -> None:
        """Put a number or text on the stack."""
        self.push(atom, sys.getsizeof(atom))

    def pop(self) -> Node:
        """Take the value on top.

        Raises:
            ValueError: a mark is there.
        """
        node = self._stack.pop()
        if isinstance(node, _Mark):
            raise ValueError("a mark stands where a value is expected")  # noqa: TRY004 - malformed
        return node

    def top(self) -> Node:
        """Look at the value on top.

        Raises:
            ValueError: a mark is there.
        """
        node = self._stack[-1]
        if isinstance(node, _Mark):
            raise ValueError("a mark stands where a value is expected")  # noqa: TRY004 - malformed
        return node

    def mark(self) -> None:
        """Begin a run of items."""
        self._stack_up(_MARK)

    def pop_run(self) -> list[Node]:
        """Take everything above the last mark, and the mark."""
        items: list[Node] = []
        while True:
            node = self._stack.pop()
            if isinstance(node, _Mark):
                self.hold(SLOT_BYTES * len(items))  # where they go
                items.reverse()
                return items
            items.append(node)

    def pop_exactly(self, count: int) -> tuple[Node, ...]:
        """Take ``count`` values, in the order they were pushed."""
        items = [self.pop() for _ in range(count)]
        return tuple(reversed(items))

    def memoize(self, index: int) -> None:
        """Remember the value on top; picklers number what they remember from 0, without gaps.

        Raises:
            ValueError: ``index`` leaves a gap.
        """
        if index < len(self._memo):
            self._memo[index] = self.top()
        elif index == len(self._memo):
            self.memoize_next()
        else:
            raise ValueError(f"it remembers {index}, {len(self._memo)} would be next")

    def memoize_next(self) -> None:
        """Remember the value on top under the next free index."""
        self.hold(SLOT_BYTES)
        self._memo.append(self.top())

    def recall(self, index: int) -> None:
        """Push a remembered value again."""
        self.push(self._memo[index])

    def set_protocol(self) -> None:
        """Read the protocol's number.

        Raises:
            CheckpointRefused: it is newer than `MAX_PROTOCOL`.
        """
        self.protocol = self.take(1)[0]
        if self.protocol > MAX_PROTOCOL:
            raise CheckpointRefused(f"its pickle has protocol {self.protocol}, 5 is the last read")
