"""What was written is read back, every chunk of it."""

import zlib
from pathlib import Path

import pytest

from tracksided.checkpoints.formats.base import Place
from tracksided.checkpoints.planning import RecordJob
from tracksided.checkpoints.shares import Chunk
from tracksided.checkpoints.workers import compare
from tracksided.errors import OutputError

NUMBER = 700  # of records of one chunk each: more than are handed out at once


@pytest.mark.parametrize("altered", [None, 0, 350, NUMBER - 1])
def test_a_changed_byte_in_any_of_many_chunks_is_found(tmp_path: Path, altered: int | None) -> None:
    records = [number.to_bytes(4, "little") for number in range(NUMBER)]
    jobs = [RecordJob(f"w{number}", 4, (), (None,)) for number in range(NUMBER)]
    places = {job.key: Place(0, 4 * number) for number, job in enumerate(jobs)}
    written = {Chunk(number, 0, 4): zlib.crc32(record) for number, record in enumerate(records)}
    if altered is not None:
        records[altered] = b"\xff" + records[altered][1:]
    path = tmp_path / "output"
    path.write_bytes(b"".join(records))

    if altered is None:
        compare([path], jobs, places, written, num_threads=2)
        return
    with pytest.raises(OutputError, match="reads back differently"):
        compare([path], jobs, places, written, num_threads=2)
