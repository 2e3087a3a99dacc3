"""The `.metadata` of torch.distributed.checkpoint, read and written without unpickling it.

It is a pickle of `Metadata`: `state_dict_metadata` says what each name is and how it is cut into
chunks, `storage_data` in which file, from which byte and how long each chunk lies, and
`planner_data` which nested keys a name was flattened from.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from tracksided.checkpoints.formats.inert_pickle import InertPickle, read_pickle
from tracksided.checkpoints.formats.pickle_nodes import (
    CallNode,
    DictNode,
    ListNode,
    Node,
    TupleNode,
    describe,
    global_path,
    mapping_pairs,
    text_entries,
)
from tracksided.checkpoints.formats.pickle_writer import write_pickle
from tracksided.checkpoints.numbers import MAX_COUNT, MAX_DIMENSIONS
from tracksided.checkpoints.shown import shown
from tracksided.errors import CheckpointRefused

METADATA = ".metadata"
LIGHTNING_STATE = "meta.pt"  # beside the shards of a .ckpt: all but weights and optimizer states
MAX_NESTING = 100  # of dicts and lists in a state dict

_MODULE = "torch.distributed.checkpoint"
_TENSOR = f"{_MODULE}.metadata.TensorStorageMetadata"
_BYTES = f"{_MODULE}.metadata.BytesStorageMetadata"


@dataclass(frozen=True, slots=True)
class Item:
    """A chunk of a tensor, or an object, and where it is stored."""

    name: str
    path: tuple[str, ...]
    """The nested keys that the name was made of; the name alone where that is not known."""

    chunk: tuple[int, ...] | None
    """Where it begins in the tensor; None for an object."""

    shape: tuple[int, ...] | None
    """Of the chunk; None for an object."""

    is_whole: bool
    """Whether the tensor has no other chunk."""

    file: str
    offset: int
    nbytes: int

    @property
    def key(self) -> str:
        """The name, with the chunk's place where there are others."""
        if self.is_whole or self.chunk is None:
            return self.name
        return f"{self.name}[{', '.join(str(start) for start in self.chunk)}]"


def lacks_lightning_state(names: Collection[str], *, has_lightning: bool) -> bool:
    """Whether Lightning has still to write its state, the last file, beside shards.

    Args:
        names: of the entries of a directory.
        has_lightning: whether a directory beside it has that state.
    """
    return has_lightning and METADATA in names and LIGHTNING_STATE not in names


@dataclass(frozen=True, slots=True)
class DistributedMetadata:
    """All items, in the order of the file, and the nodes to write it again."""

    pickle: InertPickle
    items: tuple[Item, ...]


def read_metadata(pickled: bytes) -> DistributedMetadata:
    """Parse it.

    Raises:
        CheckpointRefused: it is malformed, or says what is not read here; the message names it.
    """
    try:
        pickle = read_pickle(pickled)
    except CheckpointRefused as error:
        raise CheckpointRefused(f"{METADATA}: {error}") from error
    fields = _fields(pickle.root, f"{_MODULE}.metadata.Metadata")
    chunks = {
        _text(name): _chunks(_text(name), entry)
        for name, entry in _mapping(fields, "state_dict_metadata")
    }
    paths = {
        _text(name): _path(path)
        for name, path in mapping_pairs(fields.get("planner_data")) or []
        if isinstance(path, TupleNode)
    }
    items = tuple(
        _item(index, place, chunks, paths) for index, place in _mapping(fields, "storage_data")
    )
    found = {(item.name, item.chunk) for item in items}
    if len(found) != len(items):
        raise CheckpointRefused(f"{METADATA} places a chunk twice")
    for name, shapes in chunks.items():
        for chunk in shapes:
            if (name, chunk) not in found:
                raise CheckpointRefused(f"{METADATA} does not say where {shown(name)} is stored")
    return DistributedMetadata(pickle, items)


def write_metadata(
    metadata: DistributedMetadata,
    kept: Collection[str],
    places: Mapping[tuple[str, tuple[int, ...] | None], tuple[int, int]],
) -> bytes:
    """Write it again with some names only, and their items in other places.

    Args:
        metadata: as it was read.
        kept: names that stay.
        places: (offset, bytes) of each item that stays, by name and chunk.
    """
    items = iter(metadata.items)

    def moved(pair: tuple[Node, Node]) -> tuple[Node, Node]:
        item = next(items)
        if item.name not in kept:
            return pair
        offset, nbytes = places[item.name, item.chunk]
        return pair[0], _with_state(pair[1], {"offset": offset, "length": nbytes})

    root = metadata.pickle.root
    fields = _fields(root, f"{_MODULE}.metadata.Metadata")
    storage = [moved(pair) for pair in _mapping(fields, "storage_data")]
    names = [item.name for item in metadata.items]
    changed: dict[str, Node] = {
        "state_dict_metadata": _kept(fields["state_dict_metadata"], lambda key: key in kept),
        "storage_data": DictNode(
            [pair for name, pair in zip(names, storage, strict=True) if name in kept]
        ),
    }
    if mapping_pairs(fields.get("planner_data")) is not None:
        changed["planner_data"] = _kept(fields["planner_data"], lambda key: key in kept)
    return write_pickle(_with_state(root, changed), metadata.pickle.protocol)


def _kept(node: Node, is_kept: Callable[[Node], bool]) -> DictNode:
    return DictNode([(key, value) for key, value in mapping_pairs(node) or [] if is_kept(key)])


def _with_state(node: Node, changed: Mapping[str, Node]) -> CallNode:
    """Copy an instance with some fields changed."""
    if not isinstance(node, CallNode):
        raise TypeError("not an instance")
    pairs = [
        (key, changed.get(key, value) if isinstance(key, str) else value)
        for key, value in mapping_pairs(node.state) or []
    ]
    copy = CallNode(node.function, node.arguments, node.keywords, node.is_new)
    copy.state, copy.has_state = DictNode(pairs), True
    return copy


def _path(node: TupleNode) -> tuple[str, ...]:
    """Return the keys of dicts and the indexes of lists that lead to an entry."""
    if len(node.items) > MAX_NESTING:
        raise CheckpointRefused(
            f"{METADATA} nests an entry {len(node.items)} deep, {MAX_NESTING} are read here"
        )
    path: list[str] = []
    for part in node.items:
        if isinstance(part, bool) or not isinstance(part, str | int):
            raise CheckpointRefused(f"{METADATA} has {describe(part)} where a key is expected")
        path.append(str(part))
    return tuple(path)


def _item(
    index: Node,
    place: Node,
    chunks: Mapping[str, Mapping[tuple[int, ...] | None, tuple[int, ...] | None]],
    paths: Mapping[str, tuple[str, ...]],
) -> Item:
    index_fields = _fields(index, f"{_MODULE}.metadata.MetadataIndex")
    name = _text(index_fields.get("fqn"))
    fields = _fields(place, f"{_MODULE}.filesystem._StorageInfo")
    if fields.get("transform_descriptors") is not None:
        raise CheckpointRefused(
            f"{METADATA}: {shown(name)} is stored compressed or otherwise transformed"
        )
    starts = index_fields.get("offset")
    chunk = None if starts is None else _counts(starts, name)
    if name not in chunks or chunk not in chunks[name]:
        raise CheckpointRefused(
            f"{METADATA} stores {shown(name)} at {chunk}, which it does not list"
        )
    return Item(
        name=name,
        path=paths.get(name) or (name,),
        chunk=chunk,
        shape=chunks[name][chunk],
        is_whole=len(chunks[name]) == 1,
        file=_text(fields.get("relative_path")),
        offset=_count(fields.get("offset"), name),
        nbytes=_count(fields.get("length"), name),
    )


def _chunks(name: str, entry: Node) -> dict[tuple[int, ...] | None, tuple[int, ...] | None]:
    """Return the shape of each chunk by its place; one without place or shape for an object."""
    kind = global_path(entry.function) if isinstance(entry, CallNode) else ""
    if kind == _BYTES:
        return {None: None}
    chunks = _fields(entry, _TENSOR).get("chunks")
    if not isinstance(chunks, ListNode):
        raise CheckpointRefused(f"{METADATA} lists no chunks of {shown(name)}")
    shapes: dict[tuple[int, ...] | None, tuple[int, ...] | None] = {}
    for chunk in chunks.items:
        fields = _fields(chunk, f"{_MODULE}.metadata.ChunkStorageMetadata")
        shapes[_counts(fields.get("offsets"), name)] = _counts(fields.get("sizes"), name)
    return shapes


def _fields(node: Node, expected: str) -> dict[str, Node]:
    """Return the fields of an instance of a class that is expected here."""
    if not isinstance(node, CallNode) or global_path(node.function) != expected:
        raise CheckpointRefused(f"{METADATA} holds {describe(node)} instead of {expected}")
    return text_entries(node.state)


def _mapping(fields: Mapping[str, Node], name: str) -> list[tuple[Node, Node]]:
    pairs = mapping_pairs(fields.get(name))
    if not pairs:
        raise CheckpointRefused(f"{METADATA} has no {name}")
    return pairs


def _counts(node: Node, name: str) -> tuple[int, ...]:
    arguments = node.arguments if isinstance(node, CallNode) else None
    if global_path(node.function if isinstance(node, CallNode) else None) != "torch.Size":
        raise CheckpointRefused(f"{METADATA} gives {shown(name)} no sane place or size")
    inner = arguments.items[0] if isinstance(arguments, TupleNode) and arguments.items else None
    if not isinstance(inner, TupleNode | ListNode) or len(inner.items) > MAX_DIMENSIONS:
        raise CheckpointRefused(f"{METADATA} gives {shown(name)} no sane place or size")
    return tuple(_count(item, name) for item in inner.items)


def _count(node: Node, name: str) -> int:
    if isinstance(node, bool) or not isinstance(node, int) or not 0 <= node < MAX_COUNT:
        raise CheckpointRefused(f"{METADATA} gives {shown(name)} {describe(node)} as count")
    return node


def _text(node: Node) -> str:
    if not isinstance(node, str):
        raise CheckpointRefused(f"{METADATA} has something else where a name is expected")
    return node
