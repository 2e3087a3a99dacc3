"""The zip container against the standard library's."""

import zipfile
import zlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tracksided.checkpoints.formats.zip_container import (
    ALIGNMENT_BYTES,
    directory,
    local_header,
    place_records,
    read_directory,
)
from tracksided.checkpoints.source import SourceFile
from tracksided.errors import CheckpointRefused


def read(path: Path) -> list[tuple[str, int, int, int]]:
    source = SourceFile(path)
    try:
        return [(r.name, r.offset, r.nbytes, r.crc32) for r in read_directory(source)]
    finally:
        source.close()


def write(path: Path, bodies: dict[str, bytes]) -> list[int]:
    placed, start = place_records(tuple((name, len(body)) for name, body in bodies.items()))
    crcs = tuple(zlib.crc32(body) for body in bodies.values())
    with path.open("wb") as file:
        for record, crc in zip(placed, crcs, strict=True):
            file.seek(record.header_at)
            file.write(local_header(record, crc) + bodies[record.name])
        file.seek(start)
        file.write(directory(placed, crcs, start))
    return [record.offset for record in placed]


@given(
    st.dictionaries(
        st.text(min_size=1, max_size=70).filter(lambda name: "\0" not in name),
        st.binary(max_size=200),
        max_size=8,
    )
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_written_is_read_by_zipfile_and_by_us(
    tmp_path: Path, bodies: dict[str, bytes]
) -> None:
    path = tmp_path / "a.zip"

    offsets = write(path, bodies)

    assert all(offset % ALIGNMENT_BYTES == 0 for offset in offsets)
    expected = [(name, len(body), zlib.crc32(body)) for name, body in bodies.items()]
    assert [(name, size, crc) for name, _, size, crc in read(path)] == expected
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        found = [(i.orig_filename, i.file_size, i.CRC) for i in archive.infolist()]
    assert found == expected


def test_records_and_offsets_beyond_four_gigabytes_fit(tmp_path: Path) -> None:
    path = tmp_path / "sparse.zip"
    sizes = (("a/small", 3), ("a/large", 5 << 30), ("a/behind", 7))
    placed, start = place_records(sizes)
    with path.open("wb") as file:  # holes take no space
        for record, crc in zip(placed, (1, 2, 3), strict=True):
            file.seek(record.header_at)
            file.write(local_header(record, crc))
        file.seek(start)
        file.write(directory(placed, (1, 2, 3), start))

    assert read(path) == [
        (record.name, record.offset, record.nbytes, crc)
        for record, crc in zip(placed, (1, 2, 3), strict=True)
    ]
    with zipfile.ZipFile(path) as archive:
        found = [(i.filename, i.file_size, i.header_offset) for i in archive.infolist()]
    assert found == [(record.name, record.nbytes, record.header_at) for record in placed]


def test_files_of_zipfile_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/one", b"1" * 10)
        with archive.open("x/two", "w", force_zip64=True) as file:
            file.write(b"2" * 20)

    assert [(name, size) for name, _, size, _ in read(path)] == [("x/one", 10), ("x/two", 20)]


def test_records_that_share_bytes_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    placed, start = place_records((("a", 64), ("b", 64)))
    overlapping = (placed[0], type(placed[1])("b", placed[0].header_at, placed[0].offset, 64))
    content = bytearray(start)
    header = local_header(placed[0], 0)
    content[: len(header)] = header
    path.write_bytes(bytes(content) + directory(overlapping, (0, 0), start))

    with pytest.raises(CheckpointRefused, match=r"another name|overlaps"):
        read(path)


@pytest.mark.parametrize("at", [20, 24, 42])  # sizes and place in an entry of the directory
def test_a_missing_zip64_field_is_refused(tmp_path: Path, at: int) -> None:
    path = tmp_path / "a.zip"
    write(path, {"a/one": b"1" * 50})
    content = bytearray(path.read_bytes())
    entry = content.find(b"PK\x01\x02")
    content[entry + at : entry + at + 4] = b"\xff" * 4
    path.write_bytes(content)

    with pytest.raises(CheckpointRefused, match="zip64 field that is not there"):
        read(path)


@given(at=st.integers(0, 10_000), value=st.integers(0, 255))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_directory_is_refused_or_stays_inside_the_file(
    tmp_path: Path, at: int, value: int
) -> None:
    path = tmp_path / "a.zip"
    write(path, {"a/one": b"1" * 50, "a/two": b"2" * 60})
    content = bytearray(path.read_bytes())
    content[at % len(content)] = value
    path.write_bytes(content)

    try:
        found = read(path)
    except CheckpointRefused:
        return

    assert all(offset + nbytes <= len(content) for _, offset, nbytes, _ in found)
