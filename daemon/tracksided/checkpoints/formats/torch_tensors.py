"""Find tensors and their storages in the inert nodes of a torch pickle."""

import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from tracksided.checkpoints.dtypes import DTYPES
from tracksided.checkpoints.formats.pickle_nodes import (
    MAX_NAME_CHARACTERS,
    CallNode,
    ListNode,
    Node,
    PersistentNode,
    TupleNode,
    describe,
    global_path,
    key_name,
    mapping_pairs,
)
from tracksided.checkpoints.formats.pickle_walk import has_parts, nodes_below
from tracksided.checkpoints.numbers import MAX_COUNT, MAX_DIMENSIONS
from tracksided.checkpoints.shown import shown
from tracksided.errors import CheckpointRefused

MAX_NAMES_CHARACTERS = 32 << 20  # of all tensors together; 200,000 have some 20 million
MAX_WRAPPERS = 4  # a parameter around a subclass around a tensor has two
STORAGE_DTYPES: Mapping[str, str] = {
    "torch.HalfStorage": "float16",
    "torch.BFloat16Storage": "bfloat16",
    "torch.FloatStorage": "float32",
    "torch.DoubleStorage": "float64",
    "torch.ComplexFloatStorage": "complex64",
    "torch.ComplexDoubleStorage": "complex128",
    "torch.BoolStorage": "bool",
    "torch.ByteStorage": "uint8",
    "torch.CharStorage": "int8",
    "torch.ShortStorage": "int16",
    "torch.IntStorage": "int32",
    "torch.LongStorage": "int64",
    "torch.storage.UntypedStorage": "uint8",
}
_PLAIN = frozenset({"torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor"})
_TYPED = "torch._utils._rebuild_tensor_v3"
_PARAMETER = frozenset(
    {
        "torch._utils._rebuild_parameter",
        "torch._utils._rebuild_parameter_with_state",
    }
)
_SUBCLASS = "torch._tensor._rebuild_from_type_v2"
_DTYPE_AT = 6  # position of the dtype among the arguments of _rebuild_tensor_v3
_TENSOR_ARGUMENTS = 4  # storage, offset, size, stride


@dataclass(frozen=True, slots=True)
class Storage:
    """A torch storage as the pickle names it."""

    key: str
    nbytes: int


@dataclass(frozen=True, slots=True)
class TensorView:
    """A tensor over a storage; offset and strides in elements."""

    storage: Storage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def span(self) -> int:
        """Elements from the first to the last, both included; 0 where there is none."""
        if 0 in self.shape:
            return 0
        return 1 + sum(
            (size - 1) * stride for size, stride in zip(self.shape, self.strides, strict=True)
        )


def is_tensor(node: Node) -> bool:
    """Whether a node is a call that makes a tensor, of a kind read here or not."""
    if not isinstance(node, CallNode):
        return False
    path = global_path(node.function)
    return path.startswith(("torch._utils._rebuild_", "torch._tensor._rebuild_"))


def model_tensors(node: Node, entries: Sequence[tuple[Node, Node]] | None) -> dict[str, TensorView]:
    """Return the model's tensors by their dotted names.

    Args:
        node: a state dict, or a tensor itself.
        entries: of the state dict, those that are meant; None for a tensor itself.

    Raises:
        CheckpointRefused: a tensor is of a kind that is not read or lies where none can be
            averaged, such as in an object, or two share a name.
    """
    tensors: dict[str, TensorView] = {}
    listed: set[int] = set()
    shapes: dict[tuple[int, ...], tuple[int, ...]] = {}
    characters = 0
    top = [("", node)] if entries is None else _named(entries, None)
    for name, found in _walk(top):
        if name in tensors:
            raise CheckpointRefused(f"two tensors are named {shown(name)}")
        characters += len(name)
        if characters > MAX_NAMES_CHARACTERS:
            raise CheckpointRefused("the names of its tensors are too long")
        calls = _calls(found, name)
        listed.update(id(call) for call in calls)
        view = _view(calls[-1], name)
        shape, strides = (shapes.setdefault(sizes, sizes) for sizes in (view.shape, view.strides))
        tensors[sys.intern(name)] = replace(view, shape=shape, strides=strides)
        storage = _arguments(calls[-1], name)[0]
        listed.add(id(storage))
    _require_all_listed(top, listed)
    return tensors


def _require_all_listed(top: Sequence[tuple[str, Node]], listed: Collection[int]) -> None:
    """Refuse tensors and storages that the names of a state dict do not lead to."""
    seen: set[int] = set()
    for name, value in top:
        for found in nodes_below(value, seen):
            if id(found) not in listed and (is_tensor(found) or isinstance(found, PersistentNode)):
                raise CheckpointRefused(
                    f"{shown(name)} holds a tensor in an object, a set, or as an attribute of "
                    "another tensor, where it is not averaged; save a state dict of plain tensors"
                )


def tensor_view(node: Node, name: str) -> TensorView:
    """Read a call that makes a tensor; ``name`` is for messages.

    Raises:
        CheckpointRefused: it is of a kind that is not read, or not sane.
    """
    return _view(_calls(node, name)[-1], name)


def _calls(node: Node, name: str) -> list[CallNode]:
    """Return the calls that make a tensor, from the outermost wrapper to that of a plain one."""
    calls: list[CallNode] = []
    while True:
        arguments = _arguments(node, name)
        if not isinstance(node, CallNode) or len(calls) == MAX_WRAPPERS:
            raise CheckpointRefused(f"tensor {shown(name)} is wrapped too often")
        calls.append(node)
        path = global_path(node.function)
        if path in _PARAMETER and arguments:
            node = arguments[0]
        elif path == _SUBCLASS and len(arguments) > 2 and isinstance(arguments[2], TupleNode):  # noqa: PLR2004 - (function, type, arguments, state)
            node = CallNode(arguments[0], arguments[2])
        else:
            return calls


def _arguments(node: Node, name: str) -> tuple[Node, ...]:
    if not isinstance(node, CallNode) or not isinstance(node.arguments, TupleNode):
        raise CheckpointRefused(f"tensor {shown(name)} is not built by a call")
    return node.arguments.items


def _view(call: CallNode, name: str) -> TensorView:
    path, arguments = global_path(call.function), _arguments(call, name)
    if path not in _PLAIN and path != _TYPED:
        raise CheckpointRefused(
            f"tensor {shown(name)} is built by {shown(path)}, which is not averaged"
        )
    if len(arguments) < _TENSOR_ARGUMENTS:
        raise CheckpointRefused(f"tensor {shown(name)} lacks arguments")
    storage, dtype = _storage(arguments[0], f"tensor {shown(name)}")
    if path == _TYPED:
        named = global_path(arguments[_DTYPE_AT]) if len(arguments) > _DTYPE_AT else ""
        dtype = named.removeprefix("torch.")
    if dtype not in DTYPES:
        raise CheckpointRefused(
            f"tensor {shown(name)} has dtype {shown(dtype)}, which is not known"
        )
    _require_no_metadata(arguments[_DTYPE_AT + (path == _TYPED) :], name)
    view = TensorView(
        storage,
        sys.intern(dtype),
        _count(arguments[1], name),
        _counts(arguments[2], name),
        _counts(arguments[3], name),
    )
    _require_inside(view, name)
    return view


def _require_no_metadata(last: Sequence[Node], name: str) -> None:
    """Refuse what would change the numbers: bits for conjugate and negative, and what is unknown.

    Source: `set_tensor_metadata` of torch, which the call itself applies to the tensor.
    """
    for node in last:
        pairs = mapping_pairs(node)
        if pairs is None:
            pairs = [(node, node)]
        said = [describe(key) for key, value in pairs if value not in {None, False}]
        if said:
            raise CheckpointRefused(
                f"tensor {shown(name)} is a view with {', '.join(said[:3])}; save it after "
                "resolve_conj() and resolve_neg()"
            )


def storages_below(node: Node, seen: set[int] | None = None) -> dict[str, Storage]:
    """Return every storage that is reachable from a node, by key.

    Args:
        node: where to begin.
        seen: what earlier calls went through, which is not gone through again.

    Raises:
        CheckpointRefused: one is not sane, or has two sizes.
    """
    found: dict[str, Storage] = {}
    for current in nodes_below(node, set() if seen is None else seen):
        if not isinstance(current, PersistentNode):
            continue
        storage, _ = _storage(current, "a storage")
        known = found.setdefault(storage.key, storage)
        if known != storage:
            raise CheckpointRefused(
                f"storage {shown(storage.key)} is said to have {known.nbytes} bytes and "
                f"{storage.nbytes} bytes"
            )
    return found


def _walk(top: Sequence[tuple[str, Node]]) -> Iterator[tuple[str, Node]]:
    """Yield (name, tensor) below the entries of a state dict, containers entered in order."""
    pending = list(reversed(top))
    entered: set[int] = set()
    while pending:
        name, current = pending.pop()
        if is_tensor(current):
            yield name, current
            continue
        pairs = mapping_pairs(current)
        if pairs is None and isinstance(current, ListNode | TupleNode):
            pairs = [(str(index), item) for index, item in enumerate(current.items)]
        if not pairs or id(current) in entered:
            continue
        entered.add(id(current))
        pending.extend(reversed(_named(pairs, name)))


def _named(pairs: Sequence[tuple[Node, Node]], prefix: str | None) -> list[tuple[str, Node]]:
    """Name the values that may hold tensors; a text that is a key twice holds the last."""
    latest: dict[str, Node] = {}
    others: set[str] = set()
    for key, value in pairs:
        if not has_parts(value):
            continue
        name = key_name(key)
        if name in (others if isinstance(key, str) else latest):
            raise CheckpointRefused(f"two keys are called {shown(name)}")
        if not isinstance(key, str):
            others.add(name)
        latest[name] = value
    named = [
        (name if prefix is None else f"{prefix}.{name}", value) for name, value in latest.items()
    ]
    for name, _ in named:
        if len(name) > MAX_NAME_CHARACTERS:
            raise CheckpointRefused(f"a name has {len(name)} characters: {shown(name)}")
    return named


def _require_inside(view: TensorView, name: str) -> None:
    if len(view.shape) != len(view.strides):
        raise CheckpointRefused(
            f"tensor {shown(name)} has shape {view.shape}, strides {view.strides}"
        )
    end = (view.offset + view.span) * DTYPES[view.dtype].itemsize
    if view.span and end > view.storage.nbytes:
        raise CheckpointRefused(
            f"tensor {shown(name)} ends at byte {end} of a storage of {view.storage.nbytes} bytes"
        )


def _storage(node: Node, where: str) -> tuple[Storage, str]:
    """Read ``("storage", class, key, location, numel)``."""
    identity = node.identity if isinstance(node, PersistentNode) else None
    parts = identity.items if isinstance(identity, TupleNode) else ()
    match parts:
        case ("storage", kind, str(key), _, int(numel)) if numel >= 0:
            dtype = STORAGE_DTYPES.get(global_path(kind))
            if dtype is None:
                raise CheckpointRefused(
                    f"{where}: storage class {shown(global_path(kind))} is not read"
                )
            return Storage(key, numel * DTYPES[dtype].itemsize), dtype
        case _:
            raise CheckpointRefused(f"{where} is not a storage of torch.save")


def _counts(node: Node, name: str) -> tuple[int, ...]:
    if isinstance(node, CallNode) and global_path(node.function) == "torch.Size":
        inner = node.arguments
        node = inner.items[0] if isinstance(inner, TupleNode) and inner.items else node
    if not isinstance(node, TupleNode) or len(node.items) > MAX_DIMENSIONS:
        raise CheckpointRefused(f"tensor {shown(name)} has no sane shape")
    return tuple(_count(item, name) for item in node.items)


def _count(node: Node, name: str) -> int:
    if isinstance(node, bool) or not isinstance(node, int) or not 0 <= node < MAX_COUNT:
        raise CheckpointRefused(f"tensor {shown(name)}: {describe(node)} is not a count")
    return node
