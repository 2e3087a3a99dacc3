"""Damage that no checksum reveals ends in a refusal, never in another error."""

from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tracksided.checkpoints.formats.torch_zip import TorchZip
from tracksided.checkpoints.policy import mismatch
from tracksided.checkpoints.refusals import SourceRefused
from tracksided.checkpoints.source import SourceFile


@pytest.fixture(scope="module")
def unverified(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("unverified") / "a.pt"
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.LayerNorm(2))
    state = model.state_dict()
    state["typed"] = torch.ones(2, dtype=torch.uint16)
    state["parameter"] = torch.nn.Parameter(torch.ones(2))
    torch.serialization.set_crc32_options(compute_crc32=False)
    try:
        torch.save({"model": state, "optimizer": {"a": torch.ones(2)}, "step": 3}, path)
    finally:
        torch.serialization.set_crc32_options(compute_crc32=True)
    return path.read_bytes()


def test_a_storage_of_two_sizes_is_refused(tmp_path: Path, unverified: bytes) -> None:
    # The parameter's storage of 8 bytes is renamed to that of `typed`, which has 4.
    pickled = unverified.replace(b"h\x07X\x01\x00\x00\x005q5", b"h\x07X\x01\x00\x00\x004q5")
    assert pickled != unverified
    path = tmp_path / "damaged.pt"
    path.write_bytes(pickled)
    source = SourceFile(path)

    with pytest.raises(SourceRefused, match=r"storage '4' is said to have . bytes and . bytes"):
        TorchZip().describe(source)

    source.close()


@given(data=st.data())
@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_changed_bytes_are_described_sanely_or_refused(
    tmp_path: Path, unverified: bytes, data: st.DataObject
) -> None:
    damaged = bytearray(unverified)
    pickled = damaged.find(b"PK\x03\x04", 4)  # the first record is the pickle
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(64, pickled - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "damaged.pt"
    path.write_bytes(damaged)
    source = SourceFile(path)

    try:
        checkpoint = TorchZip().describe(source)
        layout = TorchZip().layout(checkpoint)
        TorchZip().seal(checkpoint, dict.fromkeys(checkpoint.records, 0))
        assert mismatch(checkpoint, checkpoint) is None
    except SourceRefused:
        return
    finally:
        source.close()

    assert checkpoint.tensors
    for entry in checkpoint.tensors.values():
        record = checkpoint.records[entry.record]
        assert entry.start >= 0
        assert entry.span == 0 or entry.start + entry.span <= record.nbytes
        assert record.offset + record.nbytes <= len(damaged)
    assert set(layout.records) == set(checkpoint.records)
