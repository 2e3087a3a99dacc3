"""What is held of each further checkpoint is small, and says the same."""

import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from tracksided.checkpoints.formats.base import Checkpoint, Record
from tracksided.checkpoints.formats.catalog import describe
from tracksided.checkpoints.formats.compact import RecordTable, compacted
from tracksided.checkpoints.planning import plan_records
from tracksided.checkpoints.source import SourceFile

NUM_TENSORS = 500


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[SourceFile]]:
    directory = tmp_path_factory.mktemp("files")
    for number in range(3):
        (directory / str(number)).write_bytes(b"")
    opened = [SourceFile(directory / str(number)) for number in range(3)]
    yield opened
    for file in opened:
        file.close()


@given(data=st.data())
def test_a_table_holds_what_it_was_given(files: list[SourceFile], data: st.DataObject) -> None:
    count = st.integers(0, (1 << 63) - 1)
    crc = st.none() | st.integers(0, (1 << 32) - 1)
    record = st.builds(Record, st.sampled_from(files), count, count, crc)
    one = data.draw(st.dictionaries(st.text(), record))
    other = data.draw(st.sampled_from([one, {}]) | st.dictionaries(st.text(), record))

    table = RecordTable(one)
    beside = RecordTable(other, table)

    assert dict(table) == one
    assert list(table) == list(one)
    assert dict(beside) == other


def opened(path: Path, like: Checkpoint | None) -> Checkpoint:
    return compacted(describe(SourceFile(path)), like)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_further_checkpoint_and_its_plan_take_few_bytes_for_each_tensor(
    tmp_path: Path, suffix: str
) -> None:
    paths = [tmp_path / f"step_{step}{suffix}" for step in range(6)]
    for step, path in enumerate(paths):
        state = {
            f"layers.{n}.weight": torch.full((1,), float(n + step)) for n in range(NUM_TENSORS)
        }
        (torch.save if suffix == ".pt" else save_file)(state, path)
    first = opened(paths[0], None)
    checkpoints = [first]
    tracemalloc.start()
    for path in paths[1:]:
        further = opened(path, first)
        checkpoints.append(replace(further, template=None))  # only the newest needs it
        del further
    checkpoints.reverse()
    jobs = plan_records(checkpoints)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    for checkpoint in checkpoints:
        checkpoint.sources[0].close()

    assert all(each.tensors is first.tensors for each in checkpoints)
    assert all(len(job.aligned) == 1 for job in jobs)
    plan_bytes = 1000 * NUM_TENSORS  # once, whatever the number of checkpoints
    assert held < plan_bytes + 5 * 64 * NUM_TENSORS
