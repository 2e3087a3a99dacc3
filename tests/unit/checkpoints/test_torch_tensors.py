"""Calls that make a tensor, with arguments that torch never writes."""

import pytest

from tracksided.checkpoints.formats.pickle_nodes import (
    CallNode,
    DictNode,
    Global,
    Node,
    PersistentNode,
    TupleNode,
)
from tracksided.checkpoints.formats.torch_tensors import Storage, tensor_view
from tracksided.errors import CheckpointRefused

STORAGE = PersistentNode(
    TupleNode(("storage", Global("torch", "FloatStorage"), "0", "cpu", 2)),
)


def rebuilt(metadata: Node) -> CallNode:
    """A float32 tensor of two elements; the metadata is the last argument."""
    arguments = (STORAGE, 0, TupleNode((2,)), TupleNode((1,)), False, DictNode(), metadata)
    return CallNode(Global("torch._utils", "_rebuild_tensor_v2"), TupleNode(arguments))


@pytest.mark.parametrize("metadata", [None, DictNode(), DictNode([("conj", False)])])
def test_metadata_that_changes_nothing_is_passed_over(metadata: Node) -> None:
    assert tensor_view(rebuilt(metadata), "w").storage == Storage("0", 8)


@pytest.mark.parametrize(
    ("metadata", "found"),
    [
        (DictNode([("conj", True)]), "'conj'"),
        ("odd", "'odd'"),
        (b"1234", "4 bytes"),
        (TupleNode((1, 2)), "a tuple"),
    ],
)
def test_other_metadata_is_refused_by_what_it_is(metadata: Node, found: str) -> None:
    with pytest.raises(CheckpointRefused) as refused:
        tensor_view(rebuilt(metadata), "w")

    assert str(refused.value) == (
        f"tensor 'w' is a view with {found}; save it after resolve_conj() and resolve_neg()"
    )
