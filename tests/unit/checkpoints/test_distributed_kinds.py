"""What torch.distributed.checkpoint saves in ways that are not read is named, with what to do."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed import checkpoint
from torch.distributed.checkpoint.filesystem import FileSystemWriter, SerializationFormat

from tracksided.checkpoints.formats.distributed_metadata import METADATA
from tracksided.checkpoints.job import AverageRequest, TooFewCheckpoints, run_average
from tracksided.checkpoints.watcher import look

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.distributed is disabled.*:UserWarning")


def refusals(out: Path) -> dict[str, str]:
    with pytest.raises(TooFewCheckpoints) as caught:
        run_average(AverageRequest(directory=out, patterns=("*/",)))
    return {entry.name: entry.reason for entry in caught.value.skipped}


@pytest.mark.parametrize(
    "content",
    [
        {"w": torch.ones(4)},
        {"w": torch.ones(4), "b": torch.ones(3)},
        {"step": 7, "note": ["text"], "w": torch.ones(4), "b": torch.ones(3)},
    ],
    ids=["one tensor", "two tensors", "objects in front"],
)
def test_items_in_safetensors_are_named_as_such(tmp_path: Path, content: dict[str, Any]) -> None:
    for step in (1, 2):
        writer = FileSystemWriter(
            tmp_path / f"run_{step}", serialization_format=SerializationFormat.SAFETENSORS
        )
        checkpoint.save(content, storage_writer=writer, no_dist=True)

    found = refusals(tmp_path)

    assert set(found) == {"run_1", "run_2"}
    for reason in found.values():
        assert "is stored as safetensors, which is not read here" in reason
        assert "SerializationFormat.TORCH_SAVE" in reason


def test_a_look_names_what_ranks_saved_without_each_other(tmp_path: Path) -> None:
    for step in (1, 2):
        directory = tmp_path / f"run_{step}"
        checkpoint.save({"w": torch.ones(4)}, checkpoint_id=directory, no_dist=True)
        (directory / METADATA).rename(directory / f"__0{METADATA}")  # use_collectives=False

    seen = look(tmp_path)

    assert seen.signature == frozenset()
    assert dict(seen.refused) == refusals(tmp_path)
    assert "(__0.metadata)" in dict(seen.refused)["run_1"]
    assert "use_collectives=True" in dict(seen.refused)["run_1"]


def test_a_look_is_silent_on_what_is_still_written(tmp_path: Path) -> None:
    for step in (1, 2):
        directory = tmp_path / f"run_{step}"
        checkpoint.save({"w": torch.ones(4)}, checkpoint_id=directory, no_dist=True)
    (directory / METADATA).rename(directory / f"{METADATA}.tmp")

    seen = look(tmp_path)

    assert seen.names == {"run_1"}
    assert seen.refused == ()
