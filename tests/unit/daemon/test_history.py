"""history.jsonl: a line that is whole commits its step."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from written import history

from tracksided.errors import OutputError
from tracksided.sinks.history import HistoryFile
from tracksided.sinks.tensorboard import Commit

LINE = {"step": 10, "loss": float("nan")}


def append(file: HistoryFile, step: int, nonce: str = "n", sequence: int = 1) -> None:
    file.append({**LINE, "step": step}, {0: (nonce, sequence)}, Commit("events", 100 * step))


def test_line_holds_the_records_and_the_position_of_tensorboard(tmp_path: Path) -> None:
    file = HistoryFile(tmp_path)
    append(file, 10, sequence=7)
    file.close()

    assert history(tmp_path) == [
        {
            "step": 10,
            "loss": None,
            "records": {"0": ["n", 7]},
            "tensorboard": {"file": "events", "end": 1000},
        }
    ]


def test_file_opened_again_knows_what_is_done(tmp_path: Path) -> None:
    file = HistoryFile(tmp_path)
    append(file, 10)
    append(file, 20)
    append(file, 5, nonce="other")
    file.close()

    again = HistoryFile(tmp_path)

    assert (again.progress("n").last_step, again.progress("n").num_steps) == (20, 2)
    assert again.progress("other").last_step == 5
    assert again.progress("unknown").last_step == 0
    assert again.last_step == 5
    assert again.committed == {"events": 2000}
    again.close()


@settings(max_examples=50)
@given(st.data())
def test_file_cut_anywhere_keeps_its_whole_lines_and_goes_on(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    directory = tmp_path_factory.mktemp("cut")
    file = HistoryFile(directory)
    ends = [0]
    for step in range(1, 5):
        append(file, step)
        ends.append(file.path.stat().st_size)
    file.close()
    cut = data.draw(st.integers(0, ends[-1]))
    os.truncate(file.path, cut)

    again = HistoryFile(directory)
    whole = sum(end <= cut for end in ends[1:])
    append(again, 99)
    again.close()

    assert [line["step"] for line in history(directory)] == [*range(1, whole + 1), 99]


def test_lines_of_others_are_left_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    foreign = '{"mine": 1}\nnot json\n[1]\n'
    path.write_text(foreign)

    file = HistoryFile(tmp_path)
    append(file, 10)
    file.close()

    text = path.read_text()
    assert text.startswith(foreign)
    assert json.loads(text.splitlines()[-1])["step"] == 10


def test_full_disk_adds_nothing_and_later_lines_are_whole(full_disk: Path) -> None:
    file = HistoryFile(full_disk)
    append(file, 10)
    (full_disk / "ballast").write_bytes(bytes(os.statvfs(full_disk).f_bavail * 4096))
    long_line = {"step": 20, "text": "x" * 8192}

    with pytest.raises(OutputError, match="free some space"):
        file.append(long_line, {}, None)

    (full_disk / "ballast").unlink()
    append(file, 30)
    file.close()
    assert [line["step"] for line in history(full_disk)] == [10, 30]
