"""Whoever changes a record raises the wire version: daemons that run already read by the old one.

What counts as a change stands in docs/wire-format.md under "Versions".
"""

import typing
from dataclasses import is_dataclass
from typing import Any

import pytest

from trackside.errors import LayoutMismatch, RecordCorrupt
from trackside.wire import records
from trackside.wire.layout import (
    WIRE_VERSION,
    DropCause,
    SegmentHeader,
    pack_segment_header,
    parse_segment_header,
)
from trackside.wire.records import Close, RecordKind, decode, encode

# Wire version to every record, field and type. What was released is never edited here: a change
# is a new entry, under a new version.
RECORDS: dict[int, dict[str, dict[str, str]]] = {
    1: {
        "Hello": {
            "run": "str",
            "rank": "int",
            "local_rank": "int",
            "world_size": "int",
            "local_world_size": "int",
            "node_rank": "int",
            "hostname": "str",
            "pid": "int",
            "attempt": "int",
            "started_at": "float",
            "started_boottime": "float",
            "save_dir": "str",
            "checkpoints": "tuple[str, ...]",
            "every": "int",
            "visualize": "tuple[str, ...]",
            "save_raw": "bool",
            "config": "dict[str, Any]",
            "versions": "dict[str, str]",
        },
        "Step": {
            "step": "int",
            "epoch": "int | None",
            "epoch_requested": "bool",
            "timestamp": "float",
            "loss": "float | None",
            "learning_rate": "float | None",
            "norm_before_clip": "float | None",
            "norm_after_clip": "float | None",
            "max_norm": "float | None",
            "clipped": "bool | None",
            "clip_rate": "float | None",
            "norm_peak": "float | None",
            "local_gradient_norm": "float | None",
            "step_seconds": "float | None",
            "local_seconds": "float | None",
            "amp_scale": "float | None",
            "micro_batches": "int | None",
            "dropped": "dict[str, int]",
            "shrunk": "tuple[str, ...]",
            "tokens": "tuple[str, ...]",
            "attention": "tuple[Attention, ...]",
            "gradients": "Gradients | None",
            "scalars": "tuple[LoggedScalar, ...]",
            "texts": "tuple[LoggedText, ...]",
            "arrays": "tuple[ArraySpec, ...]",
        },
        "Attention": {
            "stack": "Literal['encoder', 'decoder']",
            "type": "Literal['self_attention', 'cross_attention']",
            "layer": "int",
            "module": "str",
            "scale": "float",
            "is_causal": "bool",
            "heads": "tuple[int, ...]",
            "key_heads": "tuple[int, ...]",
            "num_heads": "int",
            "num_queries": "int",
            "num_keys": "int",
            "query_rows": "tuple[int, ...]",
        },
        "Gradients": {
            "names": "tuple[str, ...]",
            "num_elements": "tuple[int, ...]",
            "total_elements": "tuple[int, ...]",
            "shards": "tuple[int, ...]",
        },
        "LoggedScalar": {
            "step": "int",
            "name": "str",
            "value": "float",
        },
        "LoggedText": {
            "step": "int",
            "tag": "str",
            "text": "str",
        },
        "ArraySpec": {
            "name": "str",
            "dtype": "str",
            "shape": "tuple[int, ...]",
            "offset": "int",
            "nbytes": "int",
        },
        "Close": {
            "reason": "str",
            "timestamp": "float",
            "steps": "int",
            "sampled": "int",
            "published": "int",
            "dropped": "dict[str, int]",
            "loss": "float | None",
            "scalars": "tuple[LoggedScalar, ...]",
            "texts": "tuple[LoggedText, ...]",
        },
    }
}
KINDS = {1: {"STEP": 1, "CLOSE": 2}}


def _word(hint: Any) -> str:
    if isinstance(hint, type) and not typing.get_args(hint):
        return hint.__name__
    return str(hint).replace("trackside.wire.records.", "").replace("typing.", "")


def test_a_record_that_changed_has_another_version() -> None:
    found = {
        name: {field: _word(hint) for field, hint in typing.get_type_hints(kind).items()}
        for name, kind in vars(records).items()
        if is_dataclass(kind)
    }

    assert found == RECORDS[WIRE_VERSION], "raise WIRE_VERSION: docs/wire-format.md, Versions"
    assert {kind.name: kind.value for kind in RecordKind} == KINDS[WIRE_VERSION]


def test_a_reader_names_both_versions_and_the_mend() -> None:
    page = bytearray(pack_segment_header(SegmentHeader("a.r0.1.b.ring", 2048, 0)))
    page[8:12] = (WIRE_VERSION + 1).to_bytes(4, "little")

    with pytest.raises(LayoutMismatch) as raised:
        parse_segment_header(bytes(page), "a.r0.1.b.ring", 8192)

    assert f"wire version {WIRE_VERSION + 1}, this side reads {WIRE_VERSION}" in str(raised.value)
    assert "upgrade the older of trainer and daemon" in str(raised.value)


def test_a_field_that_a_reader_does_not_know_costs_the_record() -> None:
    """Why a new field is a new version."""
    close = Close(
        reason="closed",
        timestamp=0.0,
        steps=1,
        sampled=1,
        published=1,
        dropped={},
        loss=None,
        scalars=(),
        texts=(),
    )
    packed = encode(close)
    grown = bytes([packed[0] + 1]) + packed[1:] + b"\xa3new\x01"  # a map of one more: "new": 1

    with pytest.raises(RecordCorrupt, match="unknown fields"):
        decode(Close, grown)


def test_there_is_room_for_more_causes_of_drops() -> None:
    """A new cause is no new version: a reader looks at the counters that it knows."""
    assert max(DropCause) < 128 // 8
