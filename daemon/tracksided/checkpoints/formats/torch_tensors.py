"""Find tensors, their storages and the model's part in the inert nodes of a torch pickle."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from tracksided.checkpoints.dtypes import DTYPES
from tracksided.checkpoints.formats.pickle_nodes import (
    CallNode,
    DictNode,
    ListNode,
    Node,
    PersistentNode,
    SetNode,
    TupleNode,
    describe,
    global_path,
    key_name,
    mapping_pairs,
)
from tracksided.checkpoints.shown import shown
from tracksided.errors import CheckpointRefused

WRAPPER_KEYS = ("model", "state_dict", "model_state_dict", "module")
STEP_KEYS = ("global_step", "step", "steps", "num_updates", "iteration", "iter")

# State of one moment of the training: beside averaged weights it would be a lie.
TRAINING_STATE = ("optim", "sched", "scaler", "rng", "random_state")

MAX_DIMENSIONS = 64  # torch's own limit
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


@dataclass(frozen=True, slots=True)
class ModelPart:
    """Where the model's tensors are in a checkpoint."""

    root: Node
    key: str | None
    """The wrapper's entry, or None where the whole checkpoint is the state dict."""

    node: Node


def find_model(root: Node) -> ModelPart:
    """Return the state dict of a plain or wrapped checkpoint.

    Raises:
        CheckpointRefused: there is none.
    """
    pairs = mapping_pairs(root)
    if pairs is None:
        raise CheckpointRefused("it does not hold a dict but " + describe(root))
    entries = {key: value for key, value in pairs if isinstance(key, str)}
    for key in WRAPPER_KEYS:
        inner = entries.get(key)
        if mapping_pairs(inner) is not None and next(_walk(inner, ()), None) is not None:
            return ModelPart(root, key, inner)
    if any(is_tensor(value) for _, value in pairs):
        return ModelPart(root, None, root)
    found = ", ".join(shown(key) for key in list(entries)[:8])
    raise CheckpointRefused(
        f"it holds no state dict: neither tensors nor one under {', '.join(WRAPPER_KEYS)}; "
        f"its keys are {found or 'none'}"
    )


def tensor_itself(root: Node) -> ModelPart:
    """Return the part that is a single tensor under an empty name.

    Raises:
        CheckpointRefused: it is something else.
    """
    if not is_tensor(root):
        raise CheckpointRefused("it holds no tensor but " + describe(root))
    return ModelPart(root, None, root)


def is_tensor(node: Node) -> bool:
    """Whether a node is a call that makes a tensor, of a kind read here or not."""
    if not isinstance(node, CallNode):
        return False
    path = global_path(node.function)
    return path.startswith(("torch._utils._rebuild_", "torch._tensor._rebuild_"))


def is_training_state(key: Node) -> bool:
    """Whether an entry's name says optimizer, scheduler, scaler or random state."""
    return isinstance(key, str) and any(word in key.lower() for word in TRAINING_STATE)


def model_tensors(part: ModelPart) -> dict[str, TensorView]:
    """Return the model's tensors by their dotted names.

    Raises:
        CheckpointRefused: a tensor is of a kind that is not read, or two share a name.
    """
    tensors: dict[str, TensorView] = {}
    for path, node in _walk(part.node, ()):
        if part.key is None and len(path) > 1 and is_training_state(path[0]):
            continue
        name = ".".join(path)
        if name in tensors:
            raise CheckpointRefused(f"two tensors are named {shown(name)}")
        tensors[name] = tensor_view(node, name)
    return tensors


def tensor_view(node: Node, name: str) -> TensorView:
    """Read a call that makes a tensor; ``name`` is for messages.

    Raises:
        CheckpointRefused: it is of a kind that is not read, or not sane.
    """
    if not isinstance(node, CallNode) or not isinstance(node.arguments, TupleNode):
        raise CheckpointRefused(f"tensor {shown(name)} is not built by a call")
    path, arguments = global_path(node.function), node.arguments.items
    if path in _PARAMETER and arguments:
        return tensor_view(arguments[0], name)
    if path == _SUBCLASS and len(arguments) > 2 and isinstance(arguments[2], TupleNode):  # noqa: PLR2004 - (function, type, arguments, state)
        return tensor_view(CallNode(arguments[0], arguments[2]), name)
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
    view = TensorView(
        storage,
        dtype,
        _count(arguments[1], name),
        _counts(arguments[2], name),
        _counts(arguments[3], name),
    )
    _require_inside(view, name)
    return view


def step_of(root: Node) -> int | None:
    """Return the step that a wrapper states, or None."""
    pairs = mapping_pairs(root) or []
    entries = {key: value for key, value in pairs if isinstance(key, str)}
    for key in STEP_KEYS:
        value = entries.get(key)
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            return value
    return None


def storages_below(node: Node) -> dict[str, Storage]:
    """Return every storage that is reachable from a node, by key.

    Raises:
        CheckpointRefused: one is not sane, or has two sizes.
    """
    found: dict[str, Storage] = {}
    seen: set[int] = set()
    pending: list[Node] = [node]
    while pending:
        current = pending.pop()
        if id(current) in seen:
            continue
        if isinstance(current, PersistentNode):
            storage, _ = _storage(current, "a storage")
            known = found.setdefault(storage.key, storage)
            if known != storage:
                raise CheckpointRefused(
                    f"storage {shown(storage.key)} is said to have {known.nbytes} bytes and "
                    f"{storage.nbytes} bytes"
                )
        children = _children(current)
        if children:
            seen.add(id(current))
            pending.extend(children)
    return found


def _children(node: Node) -> list[Node]:
    match node:
        case TupleNode():
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


def _walk(node: Node, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], CallNode]]:
    """Yield (path, tensor) below a state dict, containers entered in order."""
    pending: list[tuple[tuple[str, ...], Node]] = [(path, node)]
    entered: set[int] = set()
    while pending:
        here, current = pending.pop()
        if isinstance(current, CallNode) and is_tensor(current):
            yield here, current
            continue
        pairs = mapping_pairs(current)
        if pairs is None and isinstance(current, ListNode | TupleNode):
            pairs = [(str(index), item) for index, item in enumerate(current.items)]
        if not pairs or id(current) in entered:
            continue
        entered.add(id(current))
        latest = {key_name(key): value for key, value in pairs}  # a key set twice holds the last
        pending.extend(((*here, key), value) for key, value in reversed(latest.items()))


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
    if isinstance(node, bool) or not isinstance(node, int) or not 0 <= node < 1 << 62:
        raise CheckpointRefused(f"tensor {shown(name)}: {describe(node)} is not a count")
    return node
