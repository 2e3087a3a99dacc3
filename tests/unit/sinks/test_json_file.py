"""JSON objects that anybody may have edited."""

import json
import os
from pathlib import Path

import pytest

from tracksided.sinks import json_file
from tracksided.sinks.json_file import MAX_DEPTH, encode, is_shallow, read_json


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


def test_an_object_that_nests_too_deep_for_python_holds_nothing(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text('{"run": ' + nested(100_000) + "}")

    assert read_json(path) is None


@pytest.mark.parametrize(("depth", "is_read"), [(MAX_DEPTH - 1, True), (MAX_DEPTH, False)])
def test_what_is_read_can_be_written_again(tmp_path: Path, depth: int, *, is_read: bool) -> None:
    path = tmp_path / "run.json"
    path.write_text('{"config": ' + nested(depth) + "}")

    found = read_json(path)

    assert (found is not None) == is_read
    assert json.loads(encode(found, indent=2)) == found


def test_an_object_without_end_takes_no_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run.json"
    path.write_text('{"run": "a"}')
    os.truncate(path, 1 << 40)  # sparse
    monkeypatch.setattr(json_file, "MAX_OBJECT_BYTES", 1 << 10)

    assert read_json(path) is None


def test_depth_counts_lists_and_objects_alike() -> None:
    assert is_shallow({"a": [{"b": 1}]}, 3)
    assert not is_shallow({"a": [{"b": 1}]}, 2)
    assert is_shallow("text", 0)
