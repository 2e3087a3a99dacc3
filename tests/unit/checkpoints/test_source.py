"""Ranges of an open file, read in blocks."""

import zlib
from contextlib import closing
from pathlib import Path

import pytest

from tracksided.checkpoints import source as source_module
from tracksided.checkpoints.refusals import SourceRefused
from tracksided.checkpoints.source import SourceFile
from tracksided.checkpoints.source_window import SourceWindow

CONTENT = bytes(range(256)) * 5
BLOCK_BYTES = 64


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_module, "_BLOCK_BYTES", BLOCK_BYTES)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "step_1.pt"
    path.write_bytes(CONTENT)
    return path


RANGES = pytest.mark.parametrize(
    ("offset", "nbytes"),
    [(0, len(CONTENT)), (3, 0), (3, 1), (3, 64), (3, 65), (100, 64 * 7 - 1), (1279, 1)],
)


@RANGES
def test_blocks_are_the_range_in_order(path: Path, offset: int, nbytes: int) -> None:
    with closing(SourceFile(path)) as source:
        found = [(at, bytes(block)) for at, block in source.blocks(offset, nbytes)]

    assert b"".join(block for _, block in found) == CONTENT[offset : offset + nbytes]
    assert [at for at, _ in found] == list(range(0, nbytes, BLOCK_BYTES))
    assert all(0 < len(block) <= BLOCK_BYTES for _, block in found)


@RANGES
def test_the_crc_is_that_of_zlib(path: Path, offset: int, nbytes: int) -> None:
    with closing(SourceFile(path)) as source:
        assert source.crc32(offset, nbytes) == zlib.crc32(CONTENT[offset : offset + nbytes])


def test_blocks_of_a_window_count_from_its_start(path: Path) -> None:
    with closing(SourceFile(path)) as source:
        window = SourceWindow(source, 10, 500, "'key'")

        assert window.crc32(20, 300) == zlib.crc32(CONTENT[30:330])


def test_a_range_that_passes_the_end_is_refused_by_name(path: Path) -> None:
    with closing(SourceFile(path)) as source, pytest.raises(SourceRefused) as refused:
        source.crc32(1200, 81)

    assert str(refused.value) == "step_1.pt: ends at byte 1280, 1 bytes are missing"
