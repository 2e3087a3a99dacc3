import json
from pathlib import Path

import pytest

from tracksided.web.json_lines import MAX_LINE_BYTES, LineTail, read_object

NAME = "history.jsonl"


def steps(tail: LineTail) -> list[int]:
    found = []
    while True:
        lines = tail.read()
        found += [line["step"] for line in lines.objects]
        if not lines.has_more:
            return found


def write(directory: Path, text: str, mode: str = "a") -> None:
    with (directory / NAME).open(mode, encoding="utf-8") as file:
        file.write(text)


def line(step: int) -> str:
    return json.dumps({"step": step}) + "\n"


def test_only_what_was_added_is_read(tmp_path: Path):
    tail = LineTail(tmp_path, NAME)
    write(tmp_path, line(1) + line(2))
    first = steps(tail)
    write(tmp_path, line(3))

    second = steps(tail)

    assert (first, second, steps(tail)) == ([1, 2], [3], [])


def test_a_line_counts_once_it_is_whole(tmp_path: Path):
    tail = LineTail(tmp_path, NAME)
    write(tmp_path, line(1) + '{"step"')
    first = steps(tail)
    write(tmp_path, ": 2}\n")

    assert (first, steps(tail)) == ([1], [2])


@pytest.mark.parametrize("foreign", ["garbage\n", "[1]\n", "\n", "7\n", "[" * 100_000 + "\n"])
def test_lines_of_foreign_make_are_left_out(tmp_path: Path, foreign: str):
    write(tmp_path, line(1) + foreign + line(2))

    assert steps(LineTail(tmp_path, NAME)) == [1, 2]


def test_a_line_without_end_takes_no_memory(tmp_path: Path):
    tail = LineTail(tmp_path, NAME)
    for _ in range(3):
        write(tmp_path, "x" * MAX_LINE_BYTES)
        assert steps(tail) == []
    write(tmp_path, "\n" + line(1))

    assert steps(tail) == [1]


def test_a_long_file_is_read_from_its_last_part_on(tmp_path: Path):
    write(tmp_path, "".join(line(step) for step in range(100, 200)))
    part = 10 * len(line(100))

    tail = LineTail(tmp_path, NAME, max_first_bytes=part - 1)

    assert steps(tail) == list(range(191, 200))  # the first of ten lines is not whole
    assert tail.is_cut


@pytest.mark.parametrize("way", ["replaced", "cut"])
def test_another_file_is_read_from_its_start(tmp_path: Path, way: str):
    tail = LineTail(tmp_path, NAME)
    write(tmp_path, line(1) + line(2))
    steps(tail)
    if way == "replaced":
        (tmp_path / NAME).rename(tmp_path / "old.jsonl")
        write(tmp_path, line(7) + line(8) + line(9))
    else:
        write(tmp_path, line(7), mode="w")

    lines = tail.read()

    assert lines.is_new_file
    assert lines.objects[0]["step"] == 7


def test_a_file_that_vanishes_is_told(tmp_path: Path):
    tail = LineTail(tmp_path, NAME)
    absent = tail.read()
    write(tmp_path, line(1))
    steps(tail)
    (tmp_path / NAME).unlink()

    gone = tail.read()

    assert not absent.is_new_file
    assert gone.is_new_file
    assert not tail.read().is_new_file


def test_an_object_is_read_whole_or_not_at_all(tmp_path: Path):
    (tmp_path / "run.json").write_text('{"run": "a"}', encoding="utf-8")
    (tmp_path / "torn.json").write_text('{"run": ', encoding="utf-8")

    assert read_object(tmp_path, "run.json") == {"run": "a"}
    assert read_object(tmp_path, "torn.json") is None
    assert read_object(tmp_path, "missing.json") is None
