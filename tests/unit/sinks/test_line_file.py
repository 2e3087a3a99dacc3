"""Files of JSON lines."""

import json
from pathlib import Path

import pytest

from tracksided.sinks import line_file
from tracksided.sinks.line_file import LineFile


@pytest.mark.parametrize("block_bytes", [1, 7, 64, 1 << 20])
@pytest.mark.parametrize("count", [1, 3, 100])
def test_newest_lines_are_found_from_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block_bytes: int, count: int
) -> None:
    monkeypatch.setattr(line_file, "BLOCK_BYTES", block_bytes)
    path = tmp_path / "lines.jsonl"
    written = [{"n": n, "text": "x" * (5 * n)} for n in range(20)]
    path.write_text("".join(json.dumps(line) + "\n" for line in written) + '{"torn": ')

    file = LineFile(path)

    assert file.newest(count) == written[-count:]
    assert [value for _, value in file.lines()] == written
    file.close()


def test_line_that_is_no_json_is_left_as_it_is(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_bytes(b"1\nnot json\n3\n")

    file = LineFile(path)
    file.append(b"4\n")

    assert list(file.lines()) == [(1, 1), (3, 3), (4, 4)]
    assert "line 2 is left as it is" in caplog.text
    assert path.read_bytes() == b"1\nnot json\n3\n4\n"
    file.close()
