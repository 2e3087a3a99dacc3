import collections
import enum
import pickle  # noqa: TID251 - the second source: it makes what the inert reader reads
import tracemalloc
from argparse import Namespace
from collections import OrderedDict, defaultdict
from pathlib import Path
from typing import Any

import pytest
from evil import Evil
from hypothesis import given
from hypothesis import strategies as st

from tracksided.checkpoints.formats import inert_pickle, pickle_machine
from tracksided.checkpoints.formats.inert_pickle import read_pickle
from tracksided.checkpoints.formats.pickle_nodes import (
    CallNode,
    DictNode,
    Global,
    ListNode,
    TupleNode,
    describe,
    key_name,
)
from tracksided.checkpoints.formats.pickle_writer import write_pickle
from tracksided.errors import CheckpointRefused

ATOMS = (
    st.none()
    | st.booleans()
    | st.integers(-(1 << 80), 1 << 80)
    | st.floats(allow_nan=False)
    | st.text(max_size=20)
    | st.binary(max_size=20)
)
VALUES = st.recursive(
    ATOMS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=5), inner, max_size=4)
        | st.tuples(inner, inner)
        | st.tuples()
        | st.dictionaries(st.text(max_size=3), inner, max_size=3).map(OrderedDict)
        | st.frozensets(st.integers(), max_size=3)
        | st.sets(st.text(max_size=3), max_size=3)
    ),
    max_leaves=20,
)


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


def round_trip(value: Any, protocol: int) -> Any:
    inert = read_pickle(pickle.dumps(value, protocol))
    return pickle.loads(write_pickle(inert.root, inert.protocol))  # noqa: S301 - made above


@given(VALUES, st.sampled_from([2, 3, 4, 5]))
def test_what_is_read_and_written_again_unpickles_to_the_same(value: Any, protocol: int) -> None:
    assert round_trip(value, protocol) == value


@pytest.mark.parametrize("protocol", [2, 4])
def test_common_classes_survive(protocol: int) -> None:
    value = {
        "namespace": Namespace(lr=0.1, layers=[1, 2]),
        "counts": collections.Counter("abca"),
        "default": defaultdict(list, {"a": [1]}),
        "colour": Colour.RED,
        "path": Path("a/b"),
        "complex": 1 + 2j,
        "bytes": bytearray(b"xy"),
    }

    copy = round_trip(value, protocol)

    assert copy == value
    assert isinstance(copy["default"], defaultdict)


@pytest.mark.parametrize("protocol", [2, 4])
def test_shared_and_circular_references_stay_shared(protocol: int) -> None:
    shared: list[Any] = [1]
    value: dict[str, Any] = {"a": shared, "b": shared, "long": list(range(300))}
    value["self"] = value
    value["many"] = [shared, *[[i] for i in range(300)]]

    copy = round_trip(value, protocol)

    assert copy["self"] is copy
    assert copy["a"] is copy["b"] is copy["many"][0]
    assert copy["long"] == list(range(300))


def test_nothing_is_executed_or_imported(tmp_path: Path) -> None:
    marker = tmp_path / "executed"

    inert = read_pickle(pickle.dumps({"evil": Evil(marker)}))

    assert not marker.exists()
    assert isinstance(inert.root, DictNode)
    call = inert.root.pairs[0][1]
    assert isinstance(call, CallNode)
    assert isinstance(call.function, Global)
    assert call.function.path == "posix.system"
    assert isinstance(call.arguments, TupleNode)


def test_deep_nesting_does_not_exhaust_the_stack_of_python() -> None:
    depth = 5000
    nested = b"\x80\x02" + b"]" * depth + b"a" * (depth - 1) + b"."

    inert = read_pickle(nested)

    node, found = read_pickle(write_pickle(inert.root, 2)).root, 0
    while isinstance(node, ListNode):
        node, found = node.items[0] if node.items else None, found + 1
    assert found == depth


def test_a_tuple_that_contains_itself_is_refused() -> None:
    inner: list[Any] = []
    value = (inner,)
    inner.append(value)
    inert = read_pickle(pickle.dumps(value, 2))

    with pytest.raises(CheckpointRefused, match="contains itself"):
        write_pickle(inert.root, 2)


@pytest.mark.parametrize(
    ("pickled", "reason"),
    [
        (b"", "ends too early"),
        (b"\x80\x02", "ends too early"),
        (b"\x80\x02a.", "malformed"),
        (b"\x80\x02h\x05.", "malformed"),
        (b"\x80\x02]]u.", "malformed"),
        (b"\x80\x02(K\x01.", "left on the stack"),
        (b"\x80\x02(.", "mark"),
        (b"\x80\x02X\xff\xff\xff\x7fabc.", "ends too early"),
        (b"\x80\x09N.", "protocol 9"),
        (b"\x80\x02\x82\x01.", r"extension registry \(opcode 0x82\)"),
        (b"\x80\x05\x97.", r"buffers outside of itself \(opcode 0x97\)"),
        (b"\x80\x02\xff.", "0xff is no opcode"),
        (b"\x80\x02Nq\x01.", "it remembers 1, 0 would be next"),
        (b"\x80\x04\x8c\x01a\x8d\x03\0\0\0\0\0\0\0\xed\xa0\x80\x93.", "malformed"),
        (b"\x80\x02}K\x01K\x02b.", "state"),
        (b"\x80\x02]K\x01K\x02s.", "not a dict"),
        (b"\x80\x02X\x01\x00\x00\x00\xff.", "malformed"),
        (b"cos" + b"x" * 2000, "malformed"),
    ],
)
def test_malformed_pickles_are_refused(pickled: bytes, reason: str) -> None:
    with pytest.raises(CheckpointRefused, match=reason):
        read_pickle(pickled)


@given(st.binary(max_size=200))
def test_random_bytes_end_in_a_value_or_a_refusal(noise: bytes) -> None:
    try:
        inert = read_pickle(b"\x80\x02" + noise)
        write_pickle(inert.root, 2)
    except CheckpointRefused:
        pass


@given(VALUES, st.data())
def test_damaged_pickles_end_in_a_value_or_a_refusal(value: Any, data: st.DataObject) -> None:
    damaged = bytearray(pickle.dumps(value, 2))
    at = data.draw(st.integers(0, len(damaged) - 1))
    damaged[at] = data.draw(st.integers(0, 255))

    try:
        inert = read_pickle(bytes(damaged))
        write_pickle(inert.root, 2)
    except CheckpointRefused:
        pass


@pytest.mark.parametrize("protocol", [0, 1])
def test_pickles_of_the_first_protocols_are_refused_with_the_mend(protocol: int) -> None:
    with pytest.raises(CheckpointRefused, match=r"protocol 0 or 1 .* torch.save's default"):
        read_pickle(pickle.dumps({"a": False, "b": [1, "x"]}, protocol))


def test_a_bytearray_of_protocol_5_survives() -> None:
    shared = bytearray(b"xy")

    copy = round_trip([shared, shared, {"empty": bytearray()}], 5)

    assert copy == [b"xy", b"xy", {"empty": b""}]
    assert type(copy[0]) is bytearray
    assert copy[0] is copy[1]


def test_integers_beyond_512_bits_are_refused() -> None:
    largest = (1 << 511) - 1

    assert read_pickle(pickle.dumps([largest, -largest - 1], 2)).root.items == [  # type: ignore[union-attr] - a list
        largest,
        -largest - 1,
    ]
    for huge in (largest + 1, 10**5000, -(10**5000)):
        with pytest.raises(CheckpointRefused, match=r"an integer of \d+ bytes, 64 are read"):
            read_pickle(pickle.dumps([huge], 2))


# What one byte, or a few, of a pickle can be made to hold.
BOMBS = {
    "dicts": b"}",
    "lists": b"]",
    "sets": b"\x8f",
    "tuples": b")",
    "marks": b"(",
    "floats": b"G12345678",
    "nested tuples": b")\x85\x85\x85",
    "memo": b"\x94",
    "recalled": b"h\x00",
    "duplicates": b"2",
    "calls": b"))R",
    "appended": b"]]a",
    "pairs": b"}NNs",
    "states": b"))\x81}b",
    "globals": b"ca\nb\n",
    "texts": b"\x8c\x01a",
    "wide texts": b"\x8c\x14" + "\U0001f600aaaaaaaaaaaaaaaa".encode(),
    "bytearrays": b"\x96\x01\0\0\0\0\0\0\0x",
    "discarded": b"]0",
    "long tuples": b"(" + b"N" * 50 + b"t",
    "long lists": b"](" + b"N" * 50 + b"e",
}


@pytest.mark.parametrize("piece", BOMBS.values(), ids=BOMBS.keys())
def test_memory_is_bounded_whatever_a_pickle_repeats(
    monkeypatch: pytest.MonkeyPatch, piece: bytes
) -> None:
    limit = 1 << 20
    monkeypatch.setattr(pickle_machine, "MAX_HELD_BYTES", limit)
    monkeypatch.setattr(pickle_machine, "MAX_STACKED", 20_000)
    bomb = b"\x80\x04]q\x00" + piece * 150_000 + b"."

    tracemalloc.start()
    try:
        with pytest.raises(CheckpointRefused, match=r"more than (1 MiB of memory|20000 values)"):
            read_pickle(bomb)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 1.3 * limit


def test_long_containers_are_written_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    value = [list(range(5001)), dict.fromkeys(range(4500)), set(range(3000)), [], {}, set()]
    monkeypatch.setattr(pickle_machine, "MAX_STACKED", 2010)  # a batch of pairs, and what is around

    inert = read_pickle(pickle.dumps(value, 4))
    written = write_pickle(inert.root, inert.protocol)

    assert pickle.loads(written) == value  # noqa: S301 - made above
    assert write_pickle(read_pickle(written).root, 4) == written


def test_names_of_shared_nodes_are_short_and_take_no_time() -> None:
    # Each tuple holds the one before it twice: 2 ** 1000 leaves.
    laughs = read_pickle(b"\x80\x02)" + b"2\x86" * 1000 + b".").root
    deep = read_pickle(b"\x80\x02)" + b"\x85" * 100_000 + b".").root
    long = read_pickle(pickle.dumps(("k" * 5000, b"b" * 5000), 2)).root

    for node in (laughs, deep, long):
        assert len(str(node)) < 120
        assert len(describe(node)) < 120
        with pytest.raises(CheckpointRefused, match="longer than 1000 characters"):
            key_name(node)


def test_keys_that_differ_have_names_that_differ() -> None:
    keys = [
        *("a", b"a", 1, 1.5, True, None, (), ("a",), ("a", 1), ("a", 2), (("a", 1),), (1, 2)),
        *(frozenset({1}), Colour.RED, Colour.BLUE, 1j, 2j, int, float, Path("a"), Path("b")),
        *(b"\x00" * 90 + b"a", b"\x00" * 90 + b"b"),
    ]

    nodes = [read_pickle(pickle.dumps(key, 4)).root for key in keys]

    assert len({key_name(node) for node in nodes}) == len(keys)
    assert key_name(nodes[8]) == "<('a', 1)>"


def test_a_pickle_of_too_many_bytes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inert_pickle, "MAX_PICKLE_BYTES", 10)

    with pytest.raises(CheckpointRefused, match="has 11 bytes"):
        read_pickle(b"\x80\x02" + b"N0" * 3 + b"NN.")


def test_global_with_a_newline_in_its_name_is_refused() -> None:
    # STACK_GLOBAL takes any text; the older opcode that is written ends names by a newline.
    pickled = b"\x80\x04\x8c\x05torch\x8c\x03a\nb\x93."

    with pytest.raises(CheckpointRefused, match="newline"):
        read_pickle(pickled)
