"""Directories of torch.distributed.checkpoint that somebody made to be trouble, or that rotted."""

import pickle  # noqa: TID251 - torch's own writer of .metadata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed import checkpoint

from tracksided.checkpoints.formats.distributed_metadata import METADATA, read_metadata
from tracksided.checkpoints.job import AverageRequest, run_average
from tracksided.checkpoints.provenance import Provenance
from tracksided.errors import CheckpointRefused

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.distributed is disabled.*:UserWarning")

FILE = "__0_0.distcp"
Edit = Callable[[Any], object]


def save(out: Path, *steps: int, **extra: Any) -> None:
    for step in steps:
        content = {"model": {"w": torch.full((4,), float(step))}, **extra}
        checkpoint.save(content, checkpoint_id=out / f"run_{step}", no_dist=True)


def run(out: Path) -> Provenance:
    provenance = run_average(AverageRequest(directory=out, patterns=("*/",)))
    assert isinstance(provenance, Provenance)
    return provenance


@pytest.fixture(scope="module")
def metadata(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    out = tmp_path_factory.mktemp("metadata")
    save(out, 1)
    return (out / "run_1" / METADATA).read_bytes()


def with_path(*path: object) -> Edit:
    return lambda metadata: metadata.planner_data.update({"model.w": path})


def doubled(times: int) -> tuple[object, ...]:
    node: tuple[object, ...] = ("ha",)
    for _ in range(times):
        node = (node, node)
    return node


def many_dimensions(metadata: Any) -> None:
    metadata.state_dict_metadata["model.w"].chunks[0].sizes = torch.Size([1] * 65)


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (with_path(10**5000, "w"), "an integer of 2077 bytes"),
        (with_path(doubled(40), "w"), "a tuple where a key is expected"),
        (with_path(*["model"] * 101), "nests an entry 101 deep"),
        (with_path("model", None), "None where a key is expected"),
        (many_dimensions, "no sane place or size"),
    ],
)
def test_absurd_metadata_is_refused_in_a_few_words(
    metadata: bytes, edit: Edit, reason: str
) -> None:
    content = pickle.loads(metadata)  # noqa: S301 - written above
    edit(content)

    with pytest.raises(CheckpointRefused, match=reason) as refused:
        read_metadata(pickle.dumps(content))

    assert len(str(refused.value)) < 300


def test_a_metadata_file_of_shared_tuples_costs_its_directory_its_place(tmp_path: Path) -> None:
    save(tmp_path, 1, 2, 3)
    path = tmp_path / "run_3" / METADATA
    content = pickle.loads(path.read_bytes())  # noqa: S301 - written above
    with_path(doubled(60), "w")(content)
    path.write_bytes(pickle.dumps(content))

    provenance = run(tmp_path)

    assert [source.name for source in provenance.sources] == ["run_1", "run_2"]
    assert "a tuple where a key is expected" in provenance.skipped[0].reason


def test_a_step_larger_than_any_is_refused_by_name(tmp_path: Path) -> None:
    save(tmp_path, 1, 2)
    save(tmp_path, 3, step=1 << 62)

    reasons = {entry.name: entry.reason for entry in run(tmp_path).skipped}

    assert reasons == {"run_3": "its step is 2**62 or more, no step is"}


@pytest.mark.parametrize("extra", [{"settings": {"x": "yes"}}, {"settings": torch.Size([7, 7])}])
def test_a_corrupt_object_costs_the_newest_its_place(tmp_path: Path, extra: dict[str, Any]) -> None:
    save(tmp_path, 1, 2, 3, **extra)
    found = read_metadata((tmp_path / "run_3" / METADATA).read_bytes())
    item = next(item for item in found.items if item.name.startswith("settings"))
    path = tmp_path / "run_3" / FILE
    content = bytearray(path.read_bytes())
    at = content.index(b"\x80\x02", item.offset) + 3  # inside of the pickle
    assert at < item.offset + item.nbytes
    content[at] ^= 0x01
    path.write_bytes(content)

    provenance = run(tmp_path)

    assert [source.name for source in provenance.sources] == ["run_1", "run_2"]
    (skipped,) = provenance.skipped
    assert skipped.name == "run_3"
    assert "is corrupt: its CRC-32 does not match" in skipped.reason
    loaded = {"model": {"w": torch.zeros(4)}}
    checkpoint.load(loaded, checkpoint_id=tmp_path / "averaged", no_dist=True)
    assert loaded["model"]["w"].tolist() == [1.5] * 4
