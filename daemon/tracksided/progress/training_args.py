"""Settings from the Trainer's ``training_args.bin``, without unpickling it."""

import math
from pathlib import Path

from tracksided.checkpoints.formats.pickle_nodes import (
    CallNode,
    DictNode,
    Global,
    ListNode,
    Node,
    TupleNode,
    global_path,
)
from tracksided.checkpoints.formats.torch_archive import read_object
from tracksided.checkpoints.refusals import SourceRefused, refused_as
from tracksided.checkpoints.source import SourceFile
from tracksided.progress.directories import checkpoints_in, is_file
from tracksided.sinks.json_file import Json

ARGUMENTS_FILE = "training_args.bin"
MAX_ITEMS = 1000  # of a list that is taken over
_SECRET = "token"  # noqa: S105 - a part of names whose values are never shown


def read_training_args(directory: Path) -> tuple[dict[str, Json], str | None]:
    """Return the arguments that are plain values or enumerations, and what went wrong.

    They lie beside the Trainer's state or, where only its checkpoints were saved, in these.

    The file is a pickle. It is read by a machine that builds inert nodes, imports nothing and
    calls nothing; whatever is more than a number, a text or a list of such is left out.
    """
    path = _find(directory)
    if path is None:
        return {}, None
    try:
        source = SourceFile(path)
        try:
            with refused_as(source):
                root = read_object(source)
        finally:
            source.close()
    except SourceRefused as error:
        return {}, f"{path.name} tells no settings: {error.reason}"
    except KeyError as error:
        return {}, f"{path.name} tells no settings: it lacks {error}"
    state = root.state if isinstance(root, CallNode) else root
    if not isinstance(state, DictNode):
        return {}, f"{path.name} tells no settings: it holds no TrainingArguments"
    settings: dict[str, Json] = {}
    for key, node in state.pairs:
        if isinstance(key, str) and not key.startswith("_") and _SECRET not in key:
            is_plain, value = _plain(node)
            if is_plain:
                settings[key] = value
    return settings, None


def _find(directory: Path) -> Path | None:
    places = (directory, *reversed(tuple(checkpoints_in(directory).values())))
    return next((p / ARGUMENTS_FILE for p in places if is_file(p / ARGUMENTS_FILE)), None)


def _plain(node: Node) -> tuple[bool, Json]:
    """Return whether a node stands for a plain value, and that value."""
    if isinstance(node, float) and not math.isfinite(node):
        return True, str(node)
    if node is None or isinstance(node, bool | int | float | str):
        return True, node
    if isinstance(node, ListNode | TupleNode):
        # Lists in lists may unfold without end: pickles share what they hold.
        if len(node.items) > MAX_ITEMS or any(map(_is_list, node.items)):
            return False, None
        items = [_plain(item) for item in node.items]
        return all(is_plain for is_plain, _ in items), [value for _, value in items]
    if isinstance(node, CallNode) and not node.has_state and not node.pairs and not node.items:
        arguments = node.arguments
        if isinstance(arguments, TupleNode):
            return _member(global_path(node.function), arguments.items)
    return False, None


def _is_list(node: Node) -> bool:
    return isinstance(node, ListNode | TupleNode)


def _member(function: str, arguments: tuple[Node, ...]) -> tuple[bool, Json]:
    """Return whether a call stands for the member of an enumeration, and its value or name.

    Python pickles it as its class, called with the member's value; 3.11.0 to 3.11.3 as `getattr`
    of its class and the member's name, so that the value is not known.
    """
    match function, arguments:
        case "__builtin__.getattr" | "builtins.getattr", (Global(), str() as name):
            return True, name
        case _, (str() as value,):
            return True, value
    return False, None
