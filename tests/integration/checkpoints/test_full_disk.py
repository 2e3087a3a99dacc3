"""A file system that is really full."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch.distributed import checkpoint

from tracksided.checkpoints.job import AverageRequest, run_average
from tracksided.errors import OutputError

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small file system"),
    pytest.mark.filterwarnings("ignore:.*torch.distributed is disabled.*:UserWarning"),
]

NUM_ELEMENTS = 70_000  # of float32: three fit on `small_disk`, four do not
OLD = b"the previous average"


def save_file_checkpoint(disk: Path, step: int, state: dict[str, torch.Tensor]) -> None:
    torch.save(state, disk / f"step_{step}.pt")


def save_huggingface(disk: Path, step: int, state: dict[str, torch.Tensor]) -> None:
    (disk / f"step_{step}").mkdir()
    save_file(state, disk / f"step_{step}" / "model.safetensors")


def save_distributed(disk: Path, step: int, state: dict[str, torch.Tensor]) -> None:
    checkpoint.save({"model": state}, checkpoint_id=disk / f"step_{step}", no_dist=True)


@pytest.mark.parametrize("save", [save_file_checkpoint, save_huggingface, save_distributed])
def test_a_full_disk_leaves_the_previous_average_and_no_debris(
    small_disk: Path, save: Callable[[Path, int, dict[str, torch.Tensor]], None]
) -> None:
    for step in (1, 2, 3):
        save(small_disk, step, {"w": torch.full((NUM_ELEMENTS,), float(step))})
    (small_disk / "averaged_model.pt").write_bytes(OLD)
    (small_disk / "averaged").mkdir()
    provenance = {"kind": "trackside checkpoint average", "output": "averaged"}
    (small_disk / "averaged" / "averaging.json").write_text(json.dumps(provenance))
    (small_disk / "averaged" / "weights").write_bytes(OLD)
    before = sorted(small_disk.rglob("*"))

    with pytest.raises(OutputError, match=r"No space left on device; the previous .* stays"):
        run_average(AverageRequest(directory=small_disk, patterns=("step_*",)))

    assert sorted(small_disk.rglob("*")) == before
    assert (small_disk / "averaged_model.pt").read_bytes() == OLD
    assert (small_disk / "averaged" / "weights").read_bytes() == OLD


PAGE_BYTES = 4096


def test_a_disk_that_is_full_up_to_any_page_keeps_one_whole_average(small_disk: Path) -> None:
    for step in (1, 2, 3):
        save_file_checkpoint(small_disk, step, {"w": torch.full((5000,), float(step))})
    old = run_average(AverageRequest(directory=small_disk, count=2))
    before = {path.name: path.read_bytes() for path in small_disk.glob("averaged*")}
    filler = small_disk / "filler"
    free = os.statvfs(small_disk).f_bavail

    refused = 0
    for num_pages in range(free):
        filler.unlink(missing_ok=True)
        filler.write_bytes(bytes((free - num_pages) * PAGE_BYTES))
        try:
            run_average(AverageRequest(directory=small_disk))
        except OutputError as error:
            assert "No space left on device" in str(error)  # noqa: PT017 - one of two outcomes
            refused += 1
            after = {path.name: path.read_bytes() for path in small_disk.glob("averaged*")}
            assert after == before
            assert not list(small_disk.glob(".*"))
        else:
            break

    assert old is not None
    assert refused > 20_000 // PAGE_BYTES  # the average alone has as many bytes
    averaged = torch.load(small_disk / "averaged_model.pt", weights_only=True)
    assert torch.equal(averaged["w"], torch.full((5000,), 2.0))
    assert len(json.loads((small_disk / "averaged_model.json").read_text())["sources"]) == 3
