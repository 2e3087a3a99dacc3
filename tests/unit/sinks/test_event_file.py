"""The framing of event files, against a bit-by-bit CRC and TensorBoard's own names."""

import os
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracksided.errors import OutputError
from tracksided.sinks.event_file import EventFile, born_at, file_name, frame, own_files

CASTAGNOLI = 0x82F63B78  # RFC 3720, reflected


def crc32c(content: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in content:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (CASTAGNOLI if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def masked(content: bytes) -> int:
    crc = crc32c(content)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) % 2**32


@given(st.binary(max_size=300))
def test_a_record_holds_length_event_and_masked_checksums(event: bytes) -> None:
    record = frame(event)

    length = struct.pack("<Q", len(event))
    expected = length + struct.pack("<I", masked(length)) + event
    assert record == expected + struct.pack("<I", masked(event))


def test_names_sort_by_time_of_birth() -> None:
    births = [5, 999_999_999, 1_700_000_000, 9_999_999_999]

    names = [file_name(birth, "host", 10 - i, 0) for i, birth in enumerate(births)]

    assert names == sorted(names)
    assert [born_at(Path(name)) for name in names] == births


def test_a_name_stays_one_path_whatever_the_host_is_called(tmp_path: Path) -> None:
    path = tmp_path / file_name(1, "../b ad", 2, 3)
    path.touch()

    assert own_files(tmp_path) == (path,)


def test_files_of_other_writers_and_links_are_not_ours(tmp_path: Path) -> None:
    (tmp_path / "events.out.tfevents.1700000000.host.12.0").touch()
    (tmp_path / "history.jsonl").touch()
    (tmp_path / file_name(1, "h", 2, 3)).symlink_to(tmp_path / "history.jsonl")
    (tmp_path / file_name(2, "h", 2, 3)).mkdir()

    assert own_files(tmp_path) == ()
    assert own_files(tmp_path / "missing") == ()


def test_appending_returns_where_the_file_ends(tmp_path: Path) -> None:
    file = EventFile(tmp_path / "deep" / "f")

    file.append([b"one", b"two"])
    file.append([])
    file.append([b"three"])
    file.close()
    file.close()

    assert file.path.read_bytes() == b"".join(map(frame, [b"one", b"two", b"three"]))
    assert file.end_offset == file.path.stat().st_size


def test_a_failed_append_leaves_no_torn_tail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = EventFile(tmp_path / "f")
    file.append([b"sound"])

    def half(descriptor: int, content: memoryview) -> int:
        if len(content) > 10:
            return real_write(descriptor, content[:10])
        raise OSError(28, "No space left on device")

    real_write = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", half)
        with pytest.raises(OutputError, match=r"f: No space left on device; free some space"):
            file.append([b"torn" * 4])
    file.append([b"after"])

    assert file.is_sound
    assert file.path.read_bytes() == frame(b"sound") + frame(b"after")
    file.close()


def test_a_directory_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "tensorboard").touch()

    with pytest.raises(OutputError, match=r"tensorboard/f: .*"):
        EventFile(tmp_path / "tensorboard" / "f")
