"""TensorBoard directories of anybody, read without pictures."""

import math
import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

from tracksided.errors import ReportError
from tracksided.progress.event_files import read_event_files
from tracksided.reports import Picture, Scalar
from tracksided.sinks import event_protos
from tracksided.sinks.event_file import EventFile, file_name, frame
from tracksided.sinks.event_records import MAX_NUMBERS_BYTES, PNG, EventDamage, read_scalars

LOSS = Scalar("loss", 1.0, 1)


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[SummaryWriter]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        opened = SummaryWriter(str(tmp_path))
    yield opened
    opened.close()


def own_file(directory: Path, number: int, scalars: list[Scalar]) -> Path:
    path = directory / file_name(1_700_000_000 + number, "host", 1, 0)
    file = EventFile(path)
    file.append([*event_protos.header(0.0, is_first=True), *event_protos.scalar_events(scalars, 1)])
    file.close()
    return path


@pytest.mark.parametrize("new_style", [False, True], ids=["simple", "tensor"])
def test_scalars_of_torch_are_what_tensorboards_own_loader_finds(
    tmp_path: Path, writer: SummaryWriter, *, new_style: bool
) -> None:
    for step in (1, 5, 9):
        writer.add_scalar("train/loss", 3.0 / step, step, walltime=100 + step, new_style=new_style)
        writer.add_scalar("eval/loss", 4.0 / step, step, new_style=new_style)
        writer.add_scalar("train/grad_norm", math.nan, step, new_style=new_style)
        writer.add_histogram("weights", np.arange(100), step)
        writer.add_text("note", "text", step)
    writer.close()

    curve = read_event_files(tmp_path, "run")

    accumulator = EventAccumulator(str(tmp_path))
    accumulator.Reload()
    tag = accumulator.Tensors if new_style else accumulator.Scalars
    assert curve.loss.steps.tolist() == [event.step for event in tag("train/loss")]
    np.testing.assert_array_equal(curve.loss.values, np.float32([3.0, 0.6, 3.0 / 9]))
    np.testing.assert_array_equal(curve.evaluation["eval_loss"].values, np.float32([4, 0.8, 4 / 9]))
    assert np.isnan(curve.gradient_norm.values).all()
    assert set(curve.evaluation) == {"eval_loss"}
    np.testing.assert_allclose(curve.seconds_per_step.values, [1.0, 1.0])
    assert (curve.step, curve.started_at) == (9, 101.0)


def test_own_files_are_read_in_order_and_a_resumed_run_counts_once(tmp_path: Path) -> None:
    last = Scalar("Eval/loss", 1.0, 35)
    own_file(tmp_path, 1, [*(Scalar("Training/Loss", float(s), s) for s in (10, 20, 30)), last])
    own_file(tmp_path, 2, [Scalar("Training/Loss", float(-s), s) for s in (20, 30, 40)])

    curve = read_event_files(tmp_path, "run")

    assert curve.loss.values.tolist() == [10.0, -20.0, -30.0, -40.0]
    assert len(curve.evaluation_loss) == 0
    assert curve.notes[0] == "training went back from step 30 to step 20; the later try counts"


def test_restart_that_the_writer_announced_forgets_every_tag(tmp_path: Path) -> None:
    scalars = [Scalar(tag, 1.0, step) for step in (10, 20) for tag in ("loss", "val_loss")]
    path = own_file(tmp_path, 1, scalars)
    with path.open("ab") as file:
        file.write(frame(event_protos.session_start(20, 0.0)))

    curve = read_event_files(tmp_path, "run")

    assert curve.loss.steps.tolist() == [10]
    assert curve.evaluation["val_loss"].steps.tolist() == [10]


def picture(size: int) -> bytes:
    image = Picture("a.png", "attention/decoder_layer0_self", PNG + bytes(size), 9, 9)
    (event,) = event_protos.picture_events([image], 1, 1.0)
    return event


def test_loss_that_was_forgotten_whole_is_no_loss(tmp_path: Path) -> None:
    path = own_file(tmp_path, 1, [Scalar("loss", 1.0, 10)])
    with path.open("ab") as file:
        file.write(frame(event_protos.session_start(5, 0.0)))

    with pytest.raises(ReportError, match="hold no scalars"):
        read_event_files(tmp_path, "run")


@pytest.mark.parametrize(
    "event", [picture(5000), bytes(MAX_NUMBERS_BYTES + 1)], ids=["picture", "large"]
)
def test_what_holds_no_numbers_is_passed_over_unread(tmp_path: Path, event: bytes) -> None:
    path = own_file(tmp_path, 1, [Scalar("loss", 1.0, 1)])
    with path.open("ab") as file:
        record = bytearray(frame(event))
        record[-1] ^= 0xFF  # its checksum is wrong: whoever read it would stop here
        file.write(record)
        file.writelines(frame(e) for e in event_protos.scalar_events([Scalar("loss", 2.0, 2)], 1))

    curve = read_event_files(tmp_path, "run")

    assert curve.loss.values.tolist() == [1.0, 2.0]
    assert curve.notes == ()


def test_event_with_thousands_of_numbers_is_read(tmp_path: Path) -> None:
    own_file(tmp_path, 1, [Scalar(f"val_{i}", float(i), 1) for i in range(5000)] + [LOSS])

    assert len(read_event_files(tmp_path, "run").evaluation) == 5000


@pytest.mark.parametrize("lost", [1, 3, 20])
def test_record_that_is_still_written_ends_the_file_in_silence(tmp_path: Path, lost: int) -> None:
    path = own_file(tmp_path, 1, [Scalar("loss", 1.0, 1), Scalar("loss", 2.0, 2)])
    os.truncate(path, path.stat().st_size - lost)

    curve = read_event_files(tmp_path, "run")

    assert curve.loss.values.tolist() == [1.0]
    assert curve.notes == ()


@pytest.mark.parametrize("place", [-6, -36], ids=["event", "length"])
def test_damaged_record_ends_the_file_and_is_told(tmp_path: Path, place: int) -> None:
    path = own_file(tmp_path, 1, [Scalar("loss", 1.0, 1)])
    content = bytearray(path.read_bytes() + frame(b"x" * 20))
    content[place] ^= 0xFF
    path.write_bytes(content)

    curve = read_event_files(tmp_path, "run")

    assert curve.loss.values.tolist() == [1.0]
    (note,) = curve.notes
    assert note.startswith(f"{path.name} has a damaged record at byte ")
    with pytest.raises(EventDamage):
        list(read_scalars(path))


def test_directory_without_a_loss_names_the_tags(tmp_path: Path) -> None:
    own_file(tmp_path, 1, [Scalar(f"metric/{index}", 1.0, 1) for index in range(20)])

    with pytest.raises(ReportError, match=r"no loss: none .* found metric/0, .* and 8 more"):
        read_event_files(tmp_path, "run")


def test_directory_without_scalars_says_so(tmp_path: Path) -> None:
    own_file(tmp_path, 1, [])

    with pytest.raises(ReportError, match="its event files hold no scalars"):
        read_event_files(tmp_path, "run")
