"""What goes wrong costs neither the previous average nor leaves anything behind."""

import json
import os
import resource
import stat
import struct
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from debris import debris

from tracksided.checkpoints import local_store, publish
from tracksided.checkpoints.averaging import Averaging
from tracksided.checkpoints.job import AverageRequest, TooFewCheckpoints, run_average
from tracksided.checkpoints.provenance import Provenance, read_provenance
from tracksided.checkpoints.publish import Publication
from tracksided.checkpoints.shares import Crcs
from tracksided.checkpoints.source import SourceFile
from tracksided.checkpoints.sweeping import sweep
from tracksided.errors import CheckpointError, OutputError

Save = Callable[..., list[dict[str, torch.Tensor]]]


@pytest.fixture
def previous(tmp_path: Path) -> Iterator[bytes]:
    """A previous average that must still be there, whole, with no debris around it."""
    content = b"the previous average"
    (tmp_path / "averaged_model.pt").write_bytes(content)
    yield content
    assert (tmp_path / "averaged_model.pt").read_bytes() == content
    assert debris(tmp_path) == []


def skipped(directory: Path) -> dict[str, str]:
    provenance = run_average(AverageRequest(directory=directory))
    assert provenance is not None
    return {entry.name: entry.reason for entry in provenance.skipped}


def poison(path: Path, key: str, value: float) -> None:
    state = torch.load(path, weights_only=True)
    state[key].view(-1)[-1] = value
    torch.save(state, path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("step", [1, 4])
def test_a_source_with_nan_or_infinity_is_left_out_by_name(
    tmp_path: Path, save_steps: Save, value: float, step: int
) -> None:
    states = save_steps(1, 2, 3, 4)
    poison(tmp_path / f"step_{step}.pt", "weight", value)

    reasons = skipped(tmp_path)

    assert reasons == {f"step_{step}.pt": "NaN or infinity in tensor 'weight'"}
    rest = [state["weight"] for state in states if int(state["counter"]) != step]
    expected = torch.stack(rest).double().mean(0)
    averaged = torch.load(tmp_path / "averaged_model.pt", weights_only=True)
    assert torch.allclose(averaged["weight"].double(), expected, atol=1e-7)


@pytest.mark.usefixtures("previous")
def test_too_few_sound_sources_leave_the_previous_average(tmp_path: Path, save_steps: Save) -> None:
    save_steps(1, 2)
    poison(tmp_path / "step_1.pt", "bias", float("nan"))

    with pytest.raises(TooFewCheckpoints, match=r"step_1\.pt: NaN or infinity in tensor 'bias'"):
        run_average(AverageRequest(directory=tmp_path))


@pytest.mark.usefixtures("previous")
def test_every_truncation_is_refused(tmp_path: Path, save_steps: Save) -> None:
    save_steps(1, 2)
    path = tmp_path / "step_2.pt"
    whole = path.read_bytes()

    for nbytes in range(0, len(whole), 41):
        path.write_bytes(whole[:nbytes])
        with pytest.raises(TooFewCheckpoints, match=r"step_2\.pt"):
            run_average(AverageRequest(directory=tmp_path))


def test_a_flipped_byte_is_refused_or_lies_where_nothing_is_read(
    tmp_path: Path, save_steps: Save
) -> None:
    save_steps(1, 2, 3)
    expected = run_average(AverageRequest(directory=tmp_path))
    assert expected is not None
    path = tmp_path / "step_2.pt"
    whole = path.read_bytes()

    refused = 0
    for at in range(0, len(whole), 23):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :])
        provenance = run_average(AverageRequest(directory=tmp_path))
        assert provenance is not None
        refused += len(provenance.sources) == 2
        if len(provenance.sources) == 3:
            assert provenance.output_digest == expected.output_digest

    tensor_bytes = whole.find(torch.load(path, weights_only=True)["weight"].numpy().tobytes())
    path.write_bytes(whole[:tensor_bytes] + b"\x01\x02" + whole[tensor_bytes + 2 :])
    assert "corrupt: tensor 'weight'" in skipped(tmp_path)["step_2.pt"]
    assert refused > 10


def flipped(whole: bytes, at: int) -> bytes:
    return whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :]


def test_a_flipped_byte_beside_the_model_is_refused_too(tmp_path: Path) -> None:
    carried = {
        "class_weights": torch.full((5,), 2.5),
        "callbacks": {"Early": {"best": torch.full((3,), 7.5)}},
        "lr": 0.125,
    }
    for step in (1, 2, 3):
        state = {"model": {"w": torch.full((4,), float(step))}, **carried}
        torch.save(state, tmp_path / f"step_{step}.pt")
    path = tmp_path / "step_3.pt"
    whole = path.read_bytes()
    expected = {"model": {"w": torch.full((4,), 2.0)}, **carried}

    kept = 0
    for at in range(0, len(whole), 37):
        path.write_bytes(flipped(whole, at))
        provenance = run_average(AverageRequest(directory=tmp_path))
        assert isinstance(provenance, Provenance)
        if len(provenance.sources) == 3:
            kept += 1
            averaged = torch.load(tmp_path / "averaged_model.pt", weights_only=True)
            assert str(averaged) == str(expected)

    assert 0 < kept < len(whole) // 74  # padding and fields that nothing depends on
    for value in (2.5, 7.5):
        path.write_bytes(flipped(whole, whole.find(struct.pack("<f", value) * 3)))
        reason = skipped(tmp_path)["step_3.pt"]
        assert reason.startswith("record 'step_3/data/")
        assert reason.endswith("is corrupt: its CRC-32 does not match")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"extra": torch.ones(1)}, "has 'extra' too"),
        ({"bias": torch.ones(8)}, "shape of 'bias' is [8], [7]"),
        ({"bias": torch.ones(7).half()}, "dtype of 'bias' is float16, float32"),
        ({"weight": torch.ones(7, 5).t()}, "memory layout of 'weight' differs"),
    ],
)
def test_a_mismatched_checkpoint_is_skipped_with_the_reason(
    tmp_path: Path, save_steps: Save, change: dict[str, torch.Tensor], reason: str
) -> None:
    save_steps(1, 2, 3)
    state = torch.load(tmp_path / "step_2.pt", weights_only=True)
    torch.save({**state, **change}, tmp_path / "step_2.pt")

    assert reason in skipped(tmp_path)["step_2.pt"]


def test_a_checkpoint_that_lacks_a_key_is_skipped(tmp_path: Path, save_steps: Save) -> None:
    states = save_steps(1, 2, 3)
    torch.save({"weight": states[1]["weight"]}, tmp_path / "step_2.pt")

    assert skipped(tmp_path)["step_2.pt"] == (
        "keys differ from step_3.pt: it lacks 'bias', 'counter'"
    )


def test_sources_that_are_deleted_while_they_are_read_still_count(
    tmp_path: Path, save_steps: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    states = save_steps(1, 2, 3)

    run_kernel = Averaging.run

    def rotate_then_average(*args: Any, **options: Any) -> Crcs:
        for path in tmp_path.glob("step_*.pt"):
            path.unlink()
        return run_kernel(*args, **options)

    monkeypatch.setattr(Averaging, "run", rotate_then_average)
    run_average(AverageRequest(directory=tmp_path))

    expected = torch.stack([state["bias"] for state in states]).double().mean(0).float()
    averaged = torch.load(tmp_path / "averaged_model.pt", weights_only=True)
    assert torch.equal(averaged["bias"], expected)


@pytest.mark.usefixtures("previous")
@pytest.mark.parametrize("change", ["grow", "shrink"])
def test_a_source_overwritten_while_it_is_read_is_left_out(
    tmp_path: Path, save_steps: Save, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    save_steps(1, 2)

    run_kernel = Averaging.run

    def overwrite_then_average(*args: Any, **options: Any) -> Crcs:
        path = tmp_path / "step_1.pt"
        os.truncate(path, path.stat().st_size * 2 if change == "grow" else 100)
        return run_kernel(*args, **options)

    monkeypatch.setattr(Averaging, "run", overwrite_then_average)

    with pytest.raises(TooFewCheckpoints, match=r"step_1\.pt: (changed|ends at)"):
        run_average(AverageRequest(directory=tmp_path))


@pytest.mark.usefixtures("previous")
def test_a_full_disk_leaves_the_previous_average(tmp_path: Path, save_steps: Save) -> None:
    save_steps(1, 2, make=lambda step: {"w": torch.full((5000,), float(step))})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(OutputError, match="previous file stays"):
            run_average(AverageRequest(directory=tmp_path))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.usefixtures("previous")
def test_an_error_of_the_disk_while_writing_leaves_the_previous_average(
    tmp_path: Path, save_steps: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_steps(1, 2)

    def fail(*_: object) -> int:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "pwrite", fail)

    with pytest.raises(OutputError, match="No space left"):
        run_average(AverageRequest(directory=tmp_path))
    monkeypatch.undo()


@pytest.mark.usefixtures("previous")
def test_an_interrupt_leaves_no_debris(
    tmp_path: Path, save_steps: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_steps(1, 2)

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Averaging, "run", interrupt)

    with pytest.raises(KeyboardInterrupt):
        run_average(AverageRequest(directory=tmp_path))


@pytest.mark.usefixtures("previous")
def test_an_average_that_reads_back_differently_is_not_published(
    tmp_path: Path, save_steps: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_steps(1, 2)
    sync = Publication.sync

    def damage(self: Publication) -> None:
        size = os.fstat(self.descriptor).st_size
        content = os.pread(self.descriptor, size, 0)
        expected = torch.load(tmp_path / "step_2.pt", weights_only=True)["counter"]
        at = content.find(expected.numpy().tobytes())
        os.pwrite(self.descriptor, b"\xee", at)
        sync(self)

    monkeypatch.setattr(Publication, "sync", damage)

    with pytest.raises(OutputError, match="read"):
        run_average(AverageRequest(directory=tmp_path))


def test_where_the_json_cannot_take_its_name_the_average_gives_its_own_back(
    tmp_path: Path, save_steps: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_steps(1, 2)
    run_average(AverageRequest(directory=tmp_path))
    save_steps(3)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    take_name = Publication.take_name

    def fail(self: Publication) -> None:
        if self.path.suffix == ".json":
            raise OSError(5, os.strerror(5))
        take_name(self)

    monkeypatch.setattr(Publication, "take_name", fail)
    with pytest.raises(OutputError):
        run_average(AverageRequest(directory=tmp_path))

    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_first_average_is_taken_back_where_a_directory_has_the_name_of_its_json(
    tmp_path: Path, save_steps: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_steps(1, 2)
    before = sorted(tmp_path.iterdir())

    def commit_late(publications: Sequence[Publication]) -> None:
        (tmp_path / "averaged_model.json").mkdir()
        publish.commit_together(publications)

    monkeypatch.setattr(local_store, "commit_together", commit_late)
    with pytest.raises(OutputError, match=r"averaged_model\.json: writing failed: Is a directory"):
        run_average(AverageRequest(directory=tmp_path))

    (tmp_path / "averaged_model.json").rmdir()
    assert sorted(tmp_path.iterdir()) == before


def test_without_exchange_an_average_that_does_not_fit_its_json_is_named_and_made_anew(
    tmp_path: Path, save_steps: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_steps(1, 2)
    run_average(AverageRequest(directory=tmp_path))
    save_steps(1, 2, 3)
    take_name = Publication.take_name

    def fail(self: Publication) -> None:
        if self.path.suffix == ".json":
            raise OSError(5, os.strerror(5))
        take_name(self)

    monkeypatch.setattr(publish, "exchange", lambda *_: False)
    with monkeypatch.context() as patched:
        patched.setattr(Publication, "take_name", fail)
        with pytest.raises(OutputError, match=r"averaged_model\.pt is new already"):
            run_average(AverageRequest(directory=tmp_path))

    again = run_average(AverageRequest(directory=tmp_path, keep_current=True))

    assert isinstance(again, Provenance)
    assert read_provenance(tmp_path / "averaged_model.pt") == json.loads(
        json.dumps(again.to_json())
    )


def test_only_abandoned_temporary_files_are_swept(tmp_path: Path) -> None:
    like = tmp_path.stat()
    with Publication(tmp_path / "a.pt", 10, like) as living:
        abandoned = tmp_path / ".a.pt.0123456789ab.trackside-tmp"
        abandoned.write_bytes(b"left by a killed process")

        removed = sweep(tmp_path)

        assert removed == 1
        assert living.temporary.exists()
        assert not abandoned.exists()
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_is_missing_is_an_error_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nowhere: cannot be read: No such file"):
        run_average(AverageRequest(directory=tmp_path / "nowhere"))


def test_a_pipe_in_the_place_of_the_provenance_is_not_waited_for(
    tmp_path: Path, save_steps: Save
) -> None:
    save_steps(1, 2)
    os.mkfifo(tmp_path / "step_1.json")

    provenance = run_average(AverageRequest(directory=tmp_path))

    assert provenance is not None
    assert len(provenance.sources) == 2


def test_a_source_file_is_readable_beyond_its_deletion(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"0123456789")
    source = SourceFile(path)
    path.unlink()

    assert source.read(2, 3) == b"234"
    assert stat.S_ISREG(source.status.st_mode)
    source.close()
    source.close()
