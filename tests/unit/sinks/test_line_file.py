"""Files of JSON lines."""

import errno
import io
import json
import os
from pathlib import Path

import pytest

from tracksided.errors import OutputError
from tracksided.sinks import line_file
from tracksided.sinks.line_file import LineFile, bounded_lines


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


def test_line_that_nests_too_deep_for_python_is_left_as_it_is(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_bytes(b"1\n" + b"[" * 100_000 + b"\n3\n")

    file = LineFile(path)

    assert list(file.lines()) == [(1, 1), (3, 3)]
    assert file.newest(5) == [1, 3]
    assert "line 2 is left as it is: it nests too deep" in caplog.text
    file.close()


@pytest.mark.parametrize("end", [b"", b"\n4\n"])
@pytest.mark.parametrize("num_bytes", [31, 32, 33, 80])
def test_of_a_line_that_is_too_long_only_the_beginning_is_read(
    monkeypatch: pytest.MonkeyPatch, num_bytes: int, end: bytes
) -> None:
    monkeypatch.setattr(line_file, "MAX_LINE_BYTES", 32)
    monkeypatch.setattr(line_file, "BLOCK_BYTES", 16)
    long = b"x" * num_bytes

    lines = list(bounded_lines(io.BytesIO(b"1\n" + long + end)))

    beginning = (long + end[:1])[:32]
    assert lines == [b"1\n", beginning, *([b"4\n"] if end else [])]


def test_newest_lines_are_no_more_than_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line_file, "BLOCK_BYTES", 4)
    monkeypatch.setattr(line_file, "MAX_NEWEST_BYTES", 16)
    path = tmp_path / "lines.jsonl"
    path.write_bytes(b'"' + b"x" * 1000 + b'"\n11\n12\n')

    file = LineFile(path)

    assert file.newest(3) == [11, 12]
    file.close()


@pytest.mark.parametrize("cut_fails", [False, True])
def test_what_a_failed_write_left_is_no_part_of_the_next_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, cut_fails: bool
) -> None:
    """A disk that fails may refuse to cut, too; a line in the midst of another is lost."""
    path = tmp_path / "lines.jsonl"
    file = LineFile(path)
    file.append(b'{"step": 1}\n')
    failing = FailingFile(file._file, cut_fails=cut_fails)
    with monkeypatch.context() as patch:
        patch.setattr(file, "_file", failing)
        for _ in range(2):
            with pytest.raises(OutputError, match="Input/output error"):
                file.append(b'{"step": 2}\n')
    is_torn = path.read_bytes() != b'{"step": 1}\n'

    file.append(b'{"step": 3}\n')
    file.close()

    assert is_torn is cut_fails
    assert path.read_bytes() == b'{"step": 1}\n{"step": 3}\n'


def test_a_line_of_somebody_else_is_told_once_and_outlives_a_write_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "lines.jsonl"
    ours, theirs = LineFile(path), LineFile(path)
    ours.append(b"1\n")
    theirs.append(b"2\n")
    with monkeypatch.context() as patch:
        patch.setattr(ours, "_file", FailingFile(ours._file, cut_fails=False))
        with pytest.raises(OutputError):
            ours.append(b"345678\n")

    ours.append(b"9\n")

    assert path.read_bytes() == b"1\n2\n9\n"
    assert (ours.take_foreign(), ours.take_foreign()) == ([2], [])
    assert theirs.take_foreign() == [1]
    for file in (ours, theirs):
        file.close()


def test_opening_a_file_takes_nothing_from_a_writer_that_adds_a_line_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_bytes(b"1\n")
    measure = LineFile._whole_bytes

    def measure_then_let_another_write(file: LineFile) -> tuple[int, bool]:
        found = measure(file)
        with path.open("ab") as other:
            other.write(b"2\n")
        return found

    monkeypatch.setattr(LineFile, "_whole_bytes", measure_then_let_another_write)

    LineFile(path).close()

    assert path.read_bytes() == b"1\n2\n"


class FailingFile:
    """Writes a part of what it is given, then fails."""

    def __init__(self, file: io.FileIO, *, cut_fails: bool) -> None:
        self._file = file
        self._cut_fails = cut_fails

    def fileno(self) -> int:
        return self._file.fileno()

    def write(self, content: bytes) -> int:
        if len(content) <= 5:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return self._file.write(content[: len(content) - 5])

    def truncate(self, size: int) -> None:
        if self._cut_fails:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        self._file.truncate(size)
