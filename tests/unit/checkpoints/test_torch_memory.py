"""What is held of a torch checkpoint while others are read, and of what goes along."""

import tracemalloc
from pathlib import Path

import pytest
import torch

from tracksided.checkpoints.formats.torch_zip import TorchZip
from tracksided.checkpoints.job import AverageRequest, run_average
from tracksided.checkpoints.listing import list_candidates
from tracksided.checkpoints.provenance import Provenance
from tracksided.checkpoints.refusals import SourceRefused
from tracksided.checkpoints.selection import Wanted, select
from tracksided.checkpoints.source import SourceFile
from tracksided.checkpoints.stores import open_store

NUM_TENSORS = 300


def save(path: Path, value: float) -> None:
    torch.save({f"layers.{n}.weight": torch.tensor(value) for n in range(NUM_TENSORS)}, path)


def test_the_nodes_of_a_pickle_are_not_held(tmp_path: Path) -> None:
    path = tmp_path / "step_1.pt"
    save(path, 1.0)
    source = SourceFile(path)
    TorchZip().describe(source)  # names are shared from here on

    tracemalloc.start()
    try:
        checkpoint = TorchZip().describe(source)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        source.close()

    # An entry and a record per tensor; its nodes alone are some 900 bytes.
    assert len(checkpoint.tensors) == NUM_TENSORS
    assert held / NUM_TENSORS < 600


def test_an_archive_that_is_another_when_it_is_read_again_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "step_1.pt"
    save(path, 1.0)
    source = SourceFile(path)
    checkpoint = TorchZip().describe(source)
    content = path.read_bytes()
    torch.save({f"others.{n}.weight": torch.tensor(1.0) for n in range(NUM_TENSORS)}, path)
    with path.open("r+b") as file:  # the same file, other names of the same length
        file.write(path.read_bytes()[: len(content)])

    with pytest.raises(SourceRefused, match="changed while it was being read"):
        TorchZip().layout(checkpoint)

    source.close()


def test_checkpoints_of_one_model_share_what_says_where_tensors_lie(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        torch.save({"w": torch.tensor(float(step))}, tmp_path / f"step_{step}.pt")
    torch.save({"w": torch.tensor([7.0, 8.0])[1]}, tmp_path / "step_0.pt")
    store = open_store(tmp_path, 4)
    candidates = list_candidates(store, ("*.pt",), set())

    with select(store, candidates, Wanted(count=4), {}) as selection:
        places = [entry.checkpoint.tensors for entry in selection.chosen]

    assert places[1] is places[2] is places[3]
    assert places[0]["w"].start == 4


@pytest.mark.parametrize("count", [3, 1100])
def test_small_records_are_bounded_together(tmp_path: Path, count: int) -> None:
    for step in (1, 2):
        torch.save({"w": torch.tensor(float(step))}, tmp_path / f"step_{step}.pt")
    reader = torch._C.PyTorchFileReader(str(tmp_path / "step_2.pt"))
    writer = torch._C.PyTorchFileWriter(str(tmp_path / "step_3.pt"))
    for name in reader.get_all_records():
        if name not in {"version", ".data/serialization_id"}:
            content = reader.get_record(name)
            writer.write_record(name, content, len(content))
    for index in range(count):
        writer.write_record(f"extra/{index}", b"x" * 1000, 1000)
    writer.write_end_of_file()

    provenance = run_average(AverageRequest(directory=tmp_path))

    assert isinstance(provenance, Provenance)
    reasons = {entry.name: entry.reason for entry in provenance.skipped}
    if count == 3:
        assert "is a copy of" in reasons.get("step_3.pt", "") + reasons.get("step_2.pt", "")
    else:
        assert "bytes, more than the" in reasons["step_3.pt"]
