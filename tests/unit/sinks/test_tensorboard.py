"""The TensorBoard sink, read back by TensorBoard's own loader."""

import io
import math
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tensorboard.util import tensor_util

from tracksided.errors import OutputError
from tracksided.reports import Scalar, StepReport, Text
from tracksided.sinks.event_file import own_files
from tracksided.sinks.tensorboard import Commit, TensorBoardSink, truncate_uncommitted

MakeReport = Callable[..., StepReport]
ReadScalars = Callable[[Path], Mapping[str, list[tuple[int, float]]]]


def write_steps(directory: Path, make: MakeReport, steps: list[int], time: float) -> Commit:
    sink = TensorBoardSink(directory, wall_time=time)
    commits = [sink.write(make(step), wall_time=time + step) for step in steps]
    sink.close()
    return commits[-1]


def test_nothing_is_made_before_the_first_write(tmp_path: Path) -> None:
    TensorBoardSink(tmp_path / "tensorboard", wall_time=1.0).close()

    assert not (tmp_path / "tensorboard").exists()


def test_all_kinds_of_results_read_back(
    tmp_path: Path, make_report: MakeReport, accumulate: Callable[[Path], object]
) -> None:
    write_steps(tmp_path, make_report, [100, 200], 1e9)

    found = accumulate(tmp_path)

    (loss, _) = found.Tensors("Training/Loss")
    assert (loss.step, loss.wall_time) == (100, 1e9 + 100)
    assert loss.tensor_proto.float_val[0] == pytest.approx(10.0)
    (text, _) = found.Tensors("Training/Epoch_Summary")
    assert text.tensor_proto.string_val[0] == b"**step** 100"
    (image, _) = found.Tensors("attention/decoder_layer0_self")
    width, height, png = image.tensor_proto.string_val
    assert (width, height) == (b"30", b"20")
    assert np.asarray(Image.open(io.BytesIO(png)))[0, 0] == 100
    (histogram, _) = found.Tensors("Gradients/w")
    buckets = tensor_util.make_ndarray(histogram.tensor_proto)
    # left edge, right edge, count
    assert buckets[buckets[:, 2] > 0].tolist() == [[0.0, 1.0, 3.0], [1.0, 2.0, 1.0]]
    assert found.Tags()["tensors"].count("custom_scalars__config__") == 1


def test_values_that_float32_cannot_hold_are_written_as_infinite(
    tmp_path: Path, make_report: MakeReport, read_scalars: ReadScalars
) -> None:
    sink = TensorBoardSink(tmp_path, wall_time=1e9)
    sink.write(make_report(1, a=1e300, b=-1e300, c=math.nan, d=math.inf), wall_time=1e9)
    sink.close()

    found = {tag: points[0][1] for tag, points in read_scalars(tmp_path).items()}

    assert found["a"] == math.inf
    assert found["b"] == -math.inf
    assert math.isnan(found["c"])
    assert found["d"] == math.inf


def test_a_second_life_goes_on_in_a_new_file_that_is_read_after_the_first(
    tmp_path: Path, make_report: MakeReport, read_scalars: ReadScalars
) -> None:
    write_steps(tmp_path, make_report, [1, 2], 1e9)
    write_steps(tmp_path, make_report, [3], 1e9 - 50)  # the clock went back

    assert len(own_files(tmp_path)) == 2
    assert [step for step, _ in read_scalars(tmp_path)["Training/Loss"]] == [1, 2, 3]


def test_rollback_makes_readers_forget_the_abandoned_steps(
    tmp_path: Path, make_report: MakeReport, read_scalars: ReadScalars
) -> None:
    sink = TensorBoardSink(tmp_path, wall_time=1e9)
    for step in (1, 2, 3):
        sink.write(make_report(step), wall_time=1e9)
    sink.rollback(2)
    sink.write(make_report(2, **{"Training/Loss": 7.0}), wall_time=1e9)
    sink.close()

    points = read_scalars(tmp_path)["Training/Loss"]

    assert points == [(1, pytest.approx(0.1)), (2, 7.0)]


def test_rollback_to_the_start_keeps_the_layout(
    tmp_path: Path, make_report: MakeReport, accumulate: Callable[[Path], object]
) -> None:
    sink = TensorBoardSink(tmp_path, wall_time=1e9)
    sink.write(make_report(1), wall_time=1e9)
    sink.rollback(0)
    sink.write(make_report(1), wall_time=1e9)
    sink.close()

    found = accumulate(tmp_path)

    assert len(found.Tensors("custom_scalars__config__")) == 1
    assert len(found.Tensors("Training/Loss")) == 1


def test_what_was_not_committed_is_cut_and_the_rest_reads_on(
    tmp_path: Path, make_report: MakeReport, read_scalars: ReadScalars
) -> None:
    committed = write_steps(tmp_path, make_report, [1, 2], 1e9)
    with (tmp_path / committed.file_name).open("ab") as file:
        file.write(b"half a record")
    write_steps(tmp_path, make_report, [3], 2e9)  # a later life, killed before its commit
    foreign = tmp_path / "events.out.tfevents.3000000000.host.1.0"
    foreign.touch()

    truncate_uncommitted(tmp_path, {committed.file_name: committed.end_offset})
    write_steps(tmp_path, make_report, [3], 2e9)

    points = read_scalars(tmp_path)["Training/Loss"]
    assert points == [(1, pytest.approx(0.1)), (2, pytest.approx(0.2)), (3, pytest.approx(0.3))]
    assert foreign.exists()


def test_without_any_commit_nothing_of_ours_stays(tmp_path: Path, make_report: MakeReport) -> None:
    write_steps(tmp_path, make_report, [1], 1e9)

    truncate_uncommitted(tmp_path, {})
    truncate_uncommitted(tmp_path / "missing", {})

    assert own_files(tmp_path) == ()


def test_a_commit_beyond_the_file_changes_nothing(tmp_path: Path, make_report: MakeReport) -> None:
    committed = write_steps(tmp_path, make_report, [1], 1e9)

    truncate_uncommitted(tmp_path, {committed.file_name: committed.end_offset + 1000})

    assert (tmp_path / committed.file_name).stat().st_size == committed.end_offset


def test_events_outside_of_steps_are_committed_too(
    tmp_path: Path, make_report: MakeReport, read_scalars: ReadScalars
) -> None:
    sink = TensorBoardSink(tmp_path, wall_time=1e9)
    sink.write(make_report(1), wall_time=1e9)
    commit = sink.write_events(
        [Scalar("Final/Loss", 1.0, 1)], [Text("Training/Final_Summary", "\ud800", 1)], 1e9
    )
    sink.close()

    assert commit.end_offset == (tmp_path / commit.file_name).stat().st_size
    assert read_scalars(tmp_path)["Final/Loss"] == [(1, 1.0)]


def test_after_a_full_disk_the_next_write_begins_a_sound_file(
    tmp_path: Path,
    make_report: MakeReport,
    read_scalars: ReadScalars,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(28, "No space left on device")

    sink = TensorBoardSink(tmp_path, wall_time=1e9)
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", refuse)
        with pytest.raises(OutputError, match="free some space"):
            sink.write(make_report(1), wall_time=1e9)
    assert own_files(tmp_path) == ()
    sink.write(make_report(1), wall_time=1e9)
    sink.close()

    assert len(read_scalars(tmp_path)["Training/Loss"]) == 1


@pytest.mark.integration
def test_behind_a_torn_tail_that_stays_nothing_is_written(
    tmp_path: Path,
    make_report: MakeReport,
    read_scalars: ReadScalars,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No reader would find it; the next write begins another file."""
    sink = TensorBoardSink(tmp_path, wall_time=1e9)
    sink.write(make_report(1), wall_time=1e9)
    broken = OSError(5, "Input/output error")
    answers = iter([20, broken])

    def write(descriptor: int, content: memoryview) -> int:
        answer = next(answers)
        if isinstance(answer, OSError):
            raise answer
        return real_write(descriptor, content[:answer])

    def refuse(*_: int) -> None:
        raise broken

    real_write = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", write)
        patch.setattr(os, "ftruncate", refuse)
        with pytest.raises(OutputError, match="Input/output error"):
            sink.write(make_report(2), wall_time=1e9)
    sink.write(make_report(3), wall_time=1e9)
    sink.close()

    assert len(own_files(tmp_path)) == 2
    steps = [step for step, _ in read_scalars(tmp_path)["Training/Loss"]]
    assert steps == [1, 3]


def test_the_sink_imports_nothing_heavy() -> None:
    code = (
        "import sys, tracksided.sinks.tensorboard;"
        "print([m for m in ('torch', 'matplotlib', 'tensorflow', 'PIL') if m in sys.modules])"
    )

    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )

    assert done.stdout.strip() == "[]"
