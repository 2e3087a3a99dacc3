"""The average of directories that torch.distributed.checkpoint saves, loaded by itself."""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.distributed import checkpoint

from tracksided.checkpoints.averaging import Averaging
from tracksided.checkpoints.formats.catalog import describe
from tracksided.checkpoints.formats.distributed_metadata import (
    METADATA,
    read_metadata,
    write_metadata,
)
from tracksided.checkpoints.job import AverageRequest, run_average
from tracksided.checkpoints.naming import DIRECTORY_PROVENANCE
from tracksided.checkpoints.provenance import Provenance
from tracksided.checkpoints.shares import Crcs
from tracksided.checkpoints.source import SourceDirectory
from tracksided.checkpoints.watcher import look
from tracksided.errors import CheckpointRefused

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.distributed is disabled.*:UserWarning")

StateDict = dict[str, torch.Tensor]
FILE = "__0_0.distcp"


def save_step(out: Path, step: int, **extra: Any) -> StateDict:
    """Model, optimizer and objects of one trained step."""
    torch.manual_seed(step)
    model = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(5, 6)).square().sum().backward()
    optimizer.step()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state |= {"scalar": torch.tensor(float(step)), "none": torch.empty(0, 3)}
    content = {"model": state, "optim": optimizer.state_dict(), "step": step, **extra}
    checkpoint.save(content, checkpoint_id=out / f"run_{step}", no_dist=True)
    return state


def load(directory: Path, state: StateDict) -> dict[str, Any]:
    empty = {name: torch.full_like(tensor, 77) for name, tensor in state.items()}
    content: dict[str, Any] = {"model": empty, "step": 0}
    checkpoint.load(content, checkpoint_id=directory, no_dist=True)
    return content


def run(out: Path) -> Provenance:
    provenance = run_average(AverageRequest(directory=out, patterns=("*/",)))
    assert provenance is not None
    return provenance


def skipped(out: Path) -> Mapping[str, str]:
    return {entry.name: entry.reason for entry in run(out).skipped}


def assert_mean(found: StateDict, states: list[StateDict]) -> None:
    for name, newest in states[-1].items():
        expected = newest
        if newest.is_floating_point():
            mean = np.mean([state[name].double().numpy() for state in states], axis=0)
            expected = torch.from_numpy(np.asarray(mean)).to(newest.dtype)
        assert torch.equal(found[name], expected), name


def test_the_average_is_read_back_as_the_mean(tmp_path: Path) -> None:
    states = [save_step(tmp_path, step, note={"a": [1, "b"]}) for step in (5, 10, 15)]

    provenance = run(tmp_path)

    content = load(tmp_path / "averaged", states[0])
    assert_mean(content["model"], states)
    assert content["step"] == 15
    names = {path.name for path in (tmp_path / "averaged").iterdir()}
    assert names == {METADATA, FILE, DIRECTORY_PROVENANCE}
    assert provenance.dropped == ("optim",)
    assert all(source.verified for source in provenance.sources)


def save_beside(out: Path, step: int) -> bytes:
    """What Lightning saves beside the shards, and two files that nobody loads with them."""
    directory = out / f"run_{step}"
    beside = {"epoch": step, "loops": {}, "hyper_parameters": {"width": 4}, "callbacks": {}}
    torch.save(beside, directory / "meta.pt")
    torch.save({"old": torch.ones(2)}, directory / "before.pt")
    (directory / "__7_0.distcp").write_bytes(b"of an earlier run with more ranks")
    (directory / "notes.txt").write_text("small")
    return (directory / "meta.pt").read_bytes()


def test_state_of_lightning_goes_along_and_what_does_not_is_named(tmp_path: Path) -> None:
    states = [save_step(tmp_path, step) for step in (1, 2)]
    beside = [save_beside(tmp_path, step) for step in (1, 2)]

    provenance = run(tmp_path)

    assert_mean(load(tmp_path / "averaged", states[0])["model"], states)
    assert (tmp_path / "averaged" / "meta.pt").read_bytes() == beside[1]
    assert (tmp_path / "averaged" / "notes.txt").read_text() == "small"
    assert provenance.dropped == ("optim", "__7_0.distcp", "before.pt")


def test_damaged_state_of_lightning_costs_the_directory_its_place(tmp_path: Path) -> None:
    states = [save_step(tmp_path, step) for step in (1, 2, 3)]
    for step in (1, 2, 3):
        save_beside(tmp_path, step)
    cut(tmp_path / "run_3" / "meta.pt", 0.5)

    assert "meta.pt: " in skipped(tmp_path)["run_3"]
    assert_mean(load(tmp_path / "averaged", states[0])["model"], states[:2])


def test_without_the_state_that_comes_last_a_directory_of_lightning_waits(tmp_path: Path) -> None:
    states = [save_step(tmp_path, step) for step in (1, 2, 3)]
    for step in (1, 2):
        save_beside(tmp_path, step)

    assert look(tmp_path).names == {"run_1", "run_2"}
    assert "no meta.pt, which Lightning writes last" in skipped(tmp_path)["run_3"]
    assert_mean(load(tmp_path / "averaged", states[0])["model"], states[:2])


def test_the_watcher_sees_that_state_of_lightning_grows(tmp_path: Path) -> None:
    save_step(tmp_path, 1)
    save_beside(tmp_path, 1)
    before = look(tmp_path)

    cut(tmp_path / "run_1" / "meta.pt", 0.5)

    assert look(tmp_path) != before


def test_the_optimizer_is_neither_kept_nor_read(tmp_path: Path) -> None:
    states = [save_step(tmp_path, step) for step in (1, 2)]
    for step in (1, 2):
        blank_optimizer(tmp_path / f"run_{step}")

    run(tmp_path)

    assert_mean(load(tmp_path / "averaged", states[0])["model"], states)
    sizes = [(tmp_path / name / FILE).stat().st_size for name in ("averaged", "run_1")]
    assert sizes[0] < sizes[1] / 2
    assert b"exp_avg" not in (tmp_path / "averaged" / METADATA).read_bytes()


def blank_optimizer(directory: Path) -> None:
    metadata = read_metadata((directory / METADATA).read_bytes())
    content = bytearray((directory / FILE).read_bytes())
    for item in metadata.items:
        if item.name.startswith("optim."):
            content[item.offset : item.offset + item.nbytes] = b"\xee" * item.nbytes
    (directory / FILE).write_bytes(content)


def test_an_application_that_wraps_model_and_optimizer_keeps_the_model(tmp_path: Path) -> None:
    for step in (1, 2):
        state = {"w": torch.full((3,), float(step))}
        content = {"app": {"model": state, "optim": {"state": {"w": {"m": torch.ones(3)}}}}}
        checkpoint.save(content, checkpoint_id=tmp_path / f"run_{step}", no_dist=True)

    run(tmp_path)

    found = {"app": {"model": {"w": torch.zeros(3)}}}
    checkpoint.load(found, checkpoint_id=tmp_path / "averaged", no_dist=True)
    assert torch.equal(found["app"]["model"]["w"], torch.full((3,), 1.5))
    assert b"exp_avg" not in (tmp_path / "averaged" / METADATA).read_bytes()


def test_files_of_another_name_are_never_opened(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        save_step(tmp_path, step)
    for step, name in ((2, "../run_1/__0_0.distcp"), (3, "/etc/x.distcp")):
        rename_file(tmp_path / f"run_{step}", name)
    save_step(tmp_path, 4)

    reasons = skipped(tmp_path)

    assert "'../run_1/__0_0.distcp' names no file inside of it" in reasons["run_2"]
    assert "'/etc/x.distcp' names no file inside of it" in reasons["run_3"]


def rename_file(directory: Path, name: str) -> None:
    """Write the metadata again with another file in it: names are short binary strings."""
    old, new = FILE.encode(), name.encode()
    encoded = (directory / METADATA).read_bytes()
    for opcode, width in ((b"X", 4), (b"\x8c", 1)):
        before = opcode + len(old).to_bytes(width, "little") + old
        after = opcode + len(new).to_bytes(width, "little") + new
        encoded = encoded.replace(before, after)
    assert new in encoded
    (directory / METADATA).write_bytes(encoded)


def cut(path: Path, share: float) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])


def flip_weight(directory: Path) -> None:
    content = bytearray((directory / FILE).read_bytes())
    metadata = read_metadata((directory / METADATA).read_bytes())
    (item,) = [item for item in metadata.items if item.name == "model.0.weight"]
    source = SourceDirectory(directory)
    try:
        record = describe(source).records["model.0.weight"]
    finally:
        source.close()
    content[item.offset + record.offset + 3] ^= 0x01
    (directory / FILE).write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda d: (d / METADATA).unlink(), "no .metadata, which is written last"),
        (
            lambda d: (d / METADATA).rename(d / "__0.metadata"),
            "each rank saved without the others (__0.metadata)",
        ),
        (lambda d: (d / METADATA).write_bytes(b"\x80\x02}."), "holds a dict instead of torch"),
        (lambda d: cut(d / METADATA, 0.5), ".metadata: "),
        (lambda d: (d / FILE).unlink(), "__0_0.distcp: cannot be opened"),
        (lambda d: cut(d / FILE, 0.3), ", but the file has"),
        (flip_weight, "corrupt: tensor"),
    ],
)
def test_an_incomplete_or_damaged_directory_is_skipped_by_name(
    tmp_path: Path, damage: Callable[[Path], object], reason: str
) -> None:
    states = [save_step(tmp_path, step) for step in (1, 2, 3)]
    damage(tmp_path / "run_3")

    assert reason in skipped(tmp_path)["run_3"]
    assert_mean(load(tmp_path / "averaged", states[0])["model"], states[:2])


def test_directories_deleted_while_they_are_read_still_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    states = [save_step(tmp_path, step) for step in (1, 2)]

    run_kernel = Averaging.run

    def rotate_then_average(*args: Any, **options: Any) -> Crcs:
        for path in tmp_path.glob("run_*"):
            shutil.rmtree(path)
        return run_kernel(*args, **options)

    monkeypatch.setattr(Averaging, "run", rotate_then_average)
    run(tmp_path)

    assert_mean(load(tmp_path / "averaged", states[0])["model"], states)


def test_metadata_written_again_in_full_says_the_same(tmp_path: Path) -> None:
    save_step(tmp_path, 1)
    metadata = read_metadata((tmp_path / "run_1" / METADATA).read_bytes())

    encoded = write_metadata(
        metadata,
        {item.name for item in metadata.items},
        {(item.name, item.chunk): (item.offset, item.nbytes) for item in metadata.items},
    )

    assert read_metadata(encoded).items == metadata.items
    (tmp_path / "run_1" / METADATA).write_bytes(encoded)
    reader = checkpoint.FileSystemReader(tmp_path / "run_1")
    assert reader.read_metadata().planner_data["optim.state.0.step"] == (
        "optim",
        "state",
        "0",
        "step",
    )


def test_metadata_cut_at_every_percent_is_refused(tmp_path: Path) -> None:
    save_step(tmp_path, 1)
    encoded = (tmp_path / "run_1" / METADATA).read_bytes()

    for percent in range(100):
        with pytest.raises(CheckpointRefused):
            read_metadata(encoded[: len(encoded) * percent // 100])


@given(data=st.data())
@settings(max_examples=300)
def test_changed_metadata_is_read_or_refused(pickled: bytes, data: st.DataObject) -> None:
    damaged = bytearray(pickled)
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))

    try:
        metadata = read_metadata(bytes(damaged))
    except CheckpointRefused:
        return

    places = {(item.name, item.chunk): (item.offset, item.nbytes) for item in metadata.items}
    encoded = write_metadata(metadata, {item.name for item in metadata.items}, places)
    assert read_metadata(encoded).items == metadata.items


@pytest.fixture(scope="module")
def pickled(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    out = tmp_path_factory.mktemp("pickled")
    save_step(out, 1)
    return (out / "run_1" / METADATA).read_bytes()


def test_items_that_overlap_are_refused(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        save_step(tmp_path, step)
    path = tmp_path / "run_3" / METADATA
    metadata = read_metadata(path.read_bytes())
    first = min(item.offset for item in metadata.items)
    places = {(item.name, item.chunk): (first, item.nbytes) for item in metadata.items}
    path.write_bytes(write_metadata(metadata, {item.name for item in metadata.items}, places))

    assert "overlaps another item" in skipped(tmp_path)["run_3"]


def test_items_in_other_files_than_its_own_are_refused(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        save_step(tmp_path, step)
    (tmp_path / "run_3" / FILE).rename(tmp_path / "run_3" / "config.json")
    rename_file(tmp_path / "run_3", "config.json")

    assert "names 'config.json', no .distcp file" in skipped(tmp_path)["run_3"]


@pytest.mark.parametrize("content_of", [lambda s: {"model": s}, lambda s: s])
def test_a_model_whose_names_sound_like_optimizers_is_kept(
    tmp_path: Path, content_of: Callable[[StateDict], dict[str, Any]]
) -> None:
    names = ("optimus.weight", "optim", "rescaler.weight")
    for step in (1, 2):
        state = {name: torch.full((2,), float(step)) for name in names}
        checkpoint.save(content_of(state), checkpoint_id=tmp_path / f"run_{step}", no_dist=True)

    run(tmp_path)

    found = {name: torch.zeros(2) for name in names}
    checkpoint.load(content_of(found), checkpoint_id=tmp_path / "averaged", no_dist=True)
    assert all(torch.equal(tensor, torch.full((2,), 1.5)) for tensor in found.values())
